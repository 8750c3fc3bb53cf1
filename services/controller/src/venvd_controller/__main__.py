"""`python -m venvd_controller`: serves until a signal ends it, or copies its state (`backup`, `restore`)."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from pydantic import ValidationError

from venvd_contract.errors import Unavailable, VenvdError
from venvd_controller.app import create_app
from venvd_controller.auth import OPEN
from venvd_controller.backup import command
from venvd_controller.controller import Controller, create_controller
from venvd_controller.controller_socket import ControllerSocket
from venvd_controller.home import Home
from venvd_controller.settings import Settings
from venvd_controller.settings_errors import describe_settings_errors
from venvd_engines.select import choose
from venvd_http import logs
from venvd_http.edge import create_edge
from venvd_http.listening import listen_tcp
from venvd_http.server import create_server
from venvd_http.tls import Tls

if TYPE_CHECKING:
    from venvd_controller.leader import Lead

_HINT = "; VENVD_PORT (`venvd up --port`) and VENVD_HOST (`venvd up --host`) name another"
_QUIET_LOGGERS = ("alembic", "docker", "httpx2", "urllib3")


def serve(settings: Settings) -> None:
    """Run a controller until a signal ends it.

    Raises:
        VenvdError: the home, the certificate, the address, the database, the engine or the manifest cannot be used.
    """
    token = settings.token.get_secret_value() if settings.token else None
    home = Home(settings.home, token, settings.identity_dir)
    if settings.metrics_token_file is not None:
        home.publish_metrics_token(settings.metrics_token_file)
    lead = None if settings.kubernetes_lease is None else _split(settings, settings.kubernetes_lease, home.id)
    tls_files = settings.tls_files
    tls = None if tls_files is None else Tls(tls_files)
    listener = listen_tcp(settings.host, settings.port, hint=_HINT)
    engine_settings = settings.create_engine_settings(home.id)

    def create() -> Controller:
        return create_controller(settings, home, lambda name: choose(name, engine_settings))

    controller = create() if lead is None else lead.wait(settings, listener, tls, create)
    if controller is None:
        return
    scheme = "http" if tls is None else "https"
    url = settings.url or f"{scheme}://{_format_authority(settings.host, listener.getsockname()[1])}"
    engine, reason = controller.engine.name, controller.engine_reason
    logging.getLogger("venvd.controller").info("%s; engine %s: %s", url, engine, reason)
    controller_socket = ControllerSocket(settings.get_controller_socket(home.id))

    def begin() -> None:
        home.announce(url)
        controller_socket.start(server)
        if lead is not None:
            lead.announce()

    def end() -> None:
        controller_socket.close()
        controller.close_followers()

    server = create_server(
        create_app(controller),
        create_edge(settings),
        stall_timeout=settings.stall_timeout,
        grace=5,
        tls=tls,
        probes=OPEN,
        lifespan=True,
        date_header=True,
        signals=True,
        on_start=begin,
        on_stop=end,
    )
    server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(1)


def _split(settings: Settings, lease: str, home_id: str) -> Lead:
    try:
        from venvd_controller import leader  # noqa: PLC0415 - load its library only if it is used
    except ModuleNotFoundError as error:
        raise Unavailable(f"VENVD_KUBERNETES_LEASE needs {error.name}: install venvd-controller[kubernetes]") from None

    return leader.split(settings, lease, home_id)


def _format_authority(host: str, port: int) -> str:
    """Format the address for clients on this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{reached}:{port}"


def main() -> None:
    """Run the controller, or a command on its state. Wrong settings end it with status 2, other errors with 1."""
    parser = argparse.ArgumentParser(prog="venvd-controller", description="Without a command: run the controller.")
    command.add_commands(parser)
    words = parser.parse_args()
    try:
        settings = Settings()
    except ValidationError as error:
        print(*describe_settings_errors(error), sep="\n", file=sys.stderr)
        raise SystemExit(2) from None
    if words.command is not None:
        raise SystemExit(command.run(settings, words))
    logs.configure(settings.log_level, quiet=_QUIET_LOGGERS)
    try:
        serve(settings)
    except VenvdError as error:
        print(f"venvd controller: {error.message}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
