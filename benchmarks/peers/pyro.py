"""Pyro5 on a Unix socket, with an object that evaluates expressions."""

from __future__ import annotations

import os
from pathlib import Path

import Pyro5.api

PATH = f"{Path.cwd()}/pyro-{os.getpid()}.sock"


@Pyro5.api.expose
class Evaluator:
    def evaluate(self, code: str) -> object:
        return eval(code)  # noqa: S307 — its purpose


def main() -> None:
    with Pyro5.api.Daemon(unixsocket=PATH) as daemon:
        print(daemon.register(Evaluator()), flush=True)
        daemon.requestLoop()


if __name__ == "__main__":
    main()
