"""`python -m venvd_http_backend`: reads settings from the environment, and serves until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

import uvloop

from venvd_contract.errors import VenvdError
from venvd_core import program
from venvd_core.program import ServerType
from venvd_core.settings import load
from venvd_http import logs
from venvd_http_backend.settings import HttpSettings


def main() -> None:
    settings = load(HttpSettings)
    logs.configure(settings.log_level, backend=settings.name, venv=settings.venv, engine=settings.engine_name)
    program.raise_descriptor_limit()
    try:
        uvloop.run(program.serve(settings, _import_server))
    except VenvdError as error:
        sys.exit(error.message)


def _import_server() -> ServerType[HttpSettings]:
    from venvd_http_backend.server import HttpServer  # noqa: PLC0415 — this takes long, and the warden joins meanwhile

    return HttpServer


if __name__ == "__main__":
    main()
