#!/bin/sh
# Evaluates Python over the pipe with only a shell and nc (netcat-openbsd): one line of JSON each way.
#
#   venvd start pipe --json                # prints the socket's URL and the token
#   VENVD_TOKEN=… examples/shell/eval.sh /path/to/pipe.sock 'sum(range(10))' [SESSION]
#
# Prints the reply. Exit status: 0 result, 1 error, 2 usage.
set -eu

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "usage: VENVD_TOKEN=… $0 SOCKET EXPRESSION [SESSION]" >&2
    exit 2
fi

json() { # prints TEXT as a JSON string
    printf '%s' "$1" | sed 's/[\\"]/\\&/g' | awk '
        BEGIN { printf "\"" }
        NR > 1 { printf "\\n" }
        { gsub(/\t/, "\\t"); printf "%s", $0 }
        END { printf "\"" }'
}

reply=$(printf '{"command":"eval","token":%s,"session":%s,"payload":{"expression":%s}}\n' \
    "$(json "${VENVD_TOKEN-}")" "$(json "${3-default}")" "$(json "$2")" | nc -U -N "$1")

printf '%s\n' "$reply"
case $reply in
    '{"result":'*) ;;
    *) exit 1 ;;
esac
