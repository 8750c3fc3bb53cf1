"""A blocking echo on a Unix socket, one connection at a time."""

from __future__ import annotations

import os
import socket
from pathlib import Path

PATH = f"{Path.cwd()}/echo-{os.getpid()}.sock"


def main() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(PATH)
        listener.listen()
        print(f"unix://{PATH}", flush=True)
        while True:
            with listener.accept()[0] as peer:
                while data := peer.recv(65536):
                    peer.sendall(data)


if __name__ == "__main__":
    main()
