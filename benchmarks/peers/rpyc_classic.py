"""RPyC in its classic mode on a Unix socket."""

from __future__ import annotations

import os
from pathlib import Path

from rpyc.core import SlaveService
from rpyc.utils.server import ThreadedServer

PATH = f"{Path.cwd()}/rpyc-{os.getpid()}.sock"


def main() -> None:
    server = ThreadedServer(SlaveService, socket_path=PATH)
    print(f"unix://{PATH}", flush=True)
    server.start()


if __name__ == "__main__":
    main()
