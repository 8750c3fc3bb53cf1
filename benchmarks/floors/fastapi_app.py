"""The least FastAPI application on uvicorn, for its memory."""

from __future__ import annotations

import socket
import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def read_root() -> dict[str, int]:
    return {"value": 2}


def main() -> None:
    host, port = sys.argv[1:] or ("127.0.0.1", "0")
    listener = socket.socket()
    listener.bind((host, int(port)))
    listener.listen(1024)
    print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning")).run([listener])


if __name__ == "__main__":
    main()
