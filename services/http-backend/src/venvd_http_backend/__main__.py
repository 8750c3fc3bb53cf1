"""`python -m venvd_http_backend`: serves one backend over HTTP until it is told to stop."""

from __future__ import annotations

from venvd_core import descriptors, logs
from venvd_core.settings import load
from venvd_http_backend.server import server
from venvd_http_backend.settings import HttpSettings


def main() -> None:
    settings = load(HttpSettings)
    logs.configure(settings.log_level, backend=settings.name, venv=settings.venv, engine=settings.engine_name)
    descriptors.raise_limit()
    server(settings).run()


if __name__ == "__main__":
    main()
