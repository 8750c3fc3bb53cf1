"""Run Python in a backend from another container: a plain socket, one line of JSON each way, no code of venvd.

`docker compose run --rm example 'sum(range(10))'` starts it without a network. It shares only the socket's directory.
"""

import json
import os
import socket
import sys

request = {
    "command": "eval",
    "payload": {"expression": sys.argv[1] if len(sys.argv) > 1 else "__import__('sys').version"},
    "token": os.environ["VENVD_PIPE_TOKEN"],
}
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("/run/pipe/pipe.sock")
    connection.sendall(json.dumps(request).encode() + b"\n")
    print(connection.makefile().readline(), end="")
