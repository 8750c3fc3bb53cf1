"""`python -m venvd_controller`: serves until it is told to stop."""

from __future__ import annotations

import json
import logging
import socket
import sys

import uvicorn
from pydantic import ValidationError

from venvd_contract.errors import Conflict, VenvdError
from venvd_controller import app
from venvd_controller.home import Home
from venvd_controller.program import build
from venvd_controller.settings import Settings
from venvd_engines.select import choose


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": self.formatTime(record), "level": record.levelname.lower(), "logger": record.name}
        if record.name == "venvd.request":
            return json.dumps({**fields, **json.loads(record.getMessage())})
        fields["message"] = record.getMessage()
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for quiet in ("alembic", "docker", "urllib3", "uvicorn.access"):
        logging.getLogger(quiet).setLevel(logging.WARNING)


def _serve(settings: Settings) -> None:
    token = settings.token.get_secret_value() if settings.token else None
    home = Home(settings.home, token)
    engine, reason = choose(settings.engine, settings.for_engine(home.id))
    if settings.metrics_token_file is not None:
        home.hand_out_metrics_token(settings.metrics_token_file)
    program = build(settings, home, engine, reason)
    listener = _listen(settings)
    url = settings.url or f"http://{settings.host}:{listener.getsockname()[1]}"
    logging.getLogger("venvd.controller").info("%s; %s", url, reason)
    config = uvicorn.Config(
        app.create(program), log_config=None, access_log=False, timeout_keep_alive=75, timeout_graceful_shutdown=3
    )
    home.announce(url, home.token)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise Conflict(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; name another with VENVD_PORT"
        ) from None
    return listener


def main() -> None:
    """Run the controller; wrong settings end it with status 2, what keeps it from serving with 1."""
    try:
        settings = Settings()
    except ValidationError as error:
        for found in error.errors():
            print(f"VENVD_{str(found['loc'][0]).upper()}: {found['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
    _log_to_stderr(settings.log_level)
    try:
        _serve(settings)
    except VenvdError as error:
        print(f"venvd controller: {error.message}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
