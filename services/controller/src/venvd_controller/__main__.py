"""`python -m venvd_controller`: serves until it is told to stop."""

from __future__ import annotations

import errno
import logging
import socket
import sys

import uvicorn
from pydantic import ValidationError

from venvd_contract.errors import Conflict, VenvdError
from venvd_controller import logs
from venvd_controller.app import create_app
from venvd_controller.controller import Controller, create_controller
from venvd_controller.home import Home
from venvd_controller.settings import Settings
from venvd_controller.settings_errors import describe_settings_errors
from venvd_engines.select import choose


class Server(uvicorn.Server):
    """Announces itself once it answers, and lets go of those who follow something when it is to end."""

    def __init__(self, config: uvicorn.Config, controller: Controller, url: str) -> None:
        super().__init__(config)
        self._controller = controller
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._controller.home.announce(self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._controller.close_followers()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Run a controller until a signal ends it.

    Raises:
        VenvdError: what keeps it from serving.
    """
    home = Home(settings.home, settings.token.get_secret_value() if settings.token else None)
    if settings.metrics_token_file is not None:
        home.publish_metrics_token(settings.metrics_token_file)
    listener = listen(settings.host, settings.port)
    engine_settings = settings.create_engine_settings(home.id)
    controller = create_controller(settings, home, lambda name: choose(name, engine_settings))
    url = settings.url or f"http://{_authority(settings.host, listener.getsockname()[1])}"
    logging.getLogger("venvd.controller").info("%s; %s", url, controller.engine_reason)
    config = uvicorn.Config(
        create_app(controller), log_config=None, access_log=False, timeout_keep_alive=75, timeout_graceful_shutdown=5,
        proxy_headers=False, server_header=False,
    )  # fmt: skip
    server = Server(config, controller, url)
    server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(1)


def listen(host: str, port: int) -> socket.socket:
    """A socket on that address; raises `Conflict` where that cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        port_wrong = error.errno in {errno.EADDRINUSE, errno.EACCES}
        way = "VENVD_PORT (`venvd up --port`)" if port_wrong else "VENVD_HOST (`venvd up --host`)"
        raise Conflict(f"cannot listen on {host}:{port}: {error.strerror}; name another with {way}") from None
    return listener


def _authority(host: str, port: int) -> str:
    """The address by which clients on this machine reach it."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{reached}:{port}"


def main() -> None:
    """Run the controller; wrong settings end it with status 2, what keeps it from serving with 1."""
    try:
        settings = Settings()
    except ValidationError as error:
        print(*describe_settings_errors(error), sep="\n", file=sys.stderr)
        raise SystemExit(2) from None
    logs.configure(settings.log_level)
    try:
        serve(settings)
    except VenvdError as error:
        print(f"venvd controller: {error.message}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
