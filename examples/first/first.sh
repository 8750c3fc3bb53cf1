#!/bin/sh
# The first program with curl: an expression, an object and its attributes, an error.
#
#   venvd start http --json                # prints the URL and the token
#   VENVD_TOKEN=… examples/first/first.sh http://127.0.0.1:5678
set -eu
url=$1

call() { # call PATH JSON: prints the answer
    curl -s "$url$1" -H "Authorization: Bearer ${VENVD_TOKEN-}" -H "Content-Type: application/json" -d "$2"
}

field() { # field NAME: prints a field of the answer on standard input that is a number or a text without quotes
    sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p'
}

sum=$(call /api/eval '{"expression": "sum(n)", "locals": {"n": [1, 2, 3]}}' | field value)
echo "sum $sum"

module=$(call /api/import '{"moduleName": "fractions"}' | field handleId)
fraction=$(call /api/create '{"moduleHandleId": "'"$module"'", "className": "Fraction", "args": [6, 8]}' | field handleId)
denominator=$(call /api/getattr '{"handleId": "'"$fraction"'", "attributeName": "denominator"}' | field value)
echo "denominator $denominator"
rounded=$(call /api/call '{"handleId": "'"$fraction"'", "methodName": "limit_denominator", "args": [1]}' | field handleId)
text=$(call /api/call '{"handleId": "'"$rounded"'", "methodName": "__str__"}' | field value)
echo "rounded $text"
call /api/dispose '{"handleIds": ["'"$rounded"'", "'"$fraction"'", "'"$module"'"]}' >/dev/null

error=$(call /api/eval '{"expression": "1 / 0"}')
echo "$(echo "$error" | field code): $(echo "$error" | field detail)"
