"""`venvd eval` and `venvd exec`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import click

import venvd
from venvd.cli.backend import chosen
from venvd.cli.command import Command, State, names, pass_state
from venvd.session import Operations
from venvd_contract.commands import ExecutionError, Output
from venvd_contract.values import Encoder, NotPlain


def place_options() -> list[click.Parameter]:
    """The options that say in which session, as `reached` takes them."""
    return [
        click.Option(["--backend"], shell_complete=names("backends"), help="Name or URL; absent is the only one."),
        click.Option(["--token"], help="The backend's token, where --backend is a URL."),
        click.Option(["--session"], help="The session; absent is `default`, which all clients share."),
    ]


class Code(Command):
    """A command that takes code, and the options that say where it runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params[:0] = [
            *place_options(),
            click.Option(
                ["--timeout"], type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="For how long."
            ),
            click.Argument(["code"]),
        ]


@contextlib.contextmanager
def reached(state: State, *, backend: str | None, token: str | None, session: str | None) -> Iterator[Operations]:
    """The session that the options name.

    Raises:
        VenvdError: there is none, or it cannot be reached.
    """
    url, known = (backend, None) if backend and "://" in backend else _known(state, backend)
    with venvd.connect(url, token or known) as connected:
        try:
            yield connected.session(session) if session else connected
        except venvd.Unauthenticated as error:
            if not token and not known:
                raise venvd.Unauthenticated(f"the backend at {url} needs its token: name it with --token") from None
            source = "given as --token" if token else "that the controller has for it"
            raise venvd.Unauthenticated(
                f"the backend at {url} refused the backend's token {source}: {error.message}"
            ) from None


def _known(state: State, name: str | None) -> tuple[str, str | None]:
    """URL and token of a backend, as the controller knows them."""
    found = state.controller.backends.get(chosen(state, name))
    if found.url is None:
        why = f": {found.error}" if found.error else ""
        raise venvd.Unavailable(f'backend "{found.name}" is {found.state}{why}')
    return found.url, found.token


def _text(code: str) -> str:
    if code != "-":
        return code
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise venvd.InvalidRequest(
            f"the code on stdin is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None


def _result(value: Any) -> dict[str, Any]:
    """A value as the contract's *result*; the handle of an object ends with this program and is left out."""
    if isinstance(value, venvd.RemoteObject):
        return {"isHandle": True, "typeName": venvd.type_name(value), "repr": repr(value)}
    try:
        return {"value": Encoder().encode(value)}
    except NotPlain:
        return {"isHandle": True, "typeName": type(value).__name__, "repr": repr(value)}


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else repr(value)


@click.command("eval", cls=Code)
@pass_state
def eval_(state: State, /, code: str, timeout: float | None, **where: str | None) -> None:
    """Evaluate CODE (- is stdin) and print the value of its last expression."""
    with reached(state, **where) as session:
        value = session.eval(_text(code), timeout=timeout)
        state.show(_result(value), _shown(value))


@click.command("exec", cls=Code)
@pass_state
def exec_(state: State, /, code: str, timeout: float | None, **where: str | None) -> None:
    """Run CODE (- is stdin) with its output as it comes; exit code 1 where it raises, sys.exit(0) apart."""
    with reached(state, **where) as session:
        output, streamed = _run(state, session, _text(code), timeout)
        if state.json:
            shown = dataclasses.asdict(dataclasses.replace(output, result=None))
            state.show({**shown, "result": _result(output.result)})
        else:
            _rest(output, streamed)
    if output.error is not None and not _left_well(output.error):
        if not state.json:
            click.echo(output.error.traceback.rstrip(), err=True)
        raise click.exceptions.Exit(1)


def _left_well(error: ExecutionError) -> bool:
    """Whether the code left by `sys.exit()` or `sys.exit(0)`, as programs do that went well."""
    return error.errorType == "SystemExit" and error.message in {"", "0", "None"}


def _run(state: State, target: Operations, code: str, timeout: float | None) -> tuple[Output, set[str]]:
    """The output, and which of its streams were shown while it ran."""
    streamed: set[str] = set()
    for event in target.exec_stream(code, timeout=timeout):
        if event.kind == "result":
            output: Output = event.data
            return output, streamed
        if event.kind in {"stdout", "stderr"} and not state.json:
            streamed.add(event.kind)
            click.echo(event.data, nl=False, err=event.kind == "stderr")
    raise venvd.BadReply("the stream of events ended without a result")


def _rest(output: Output, streamed: set[str]) -> None:
    """What a backend that does not stream has told only at the end."""
    if "stdout" not in streamed:
        click.echo(output.stdout, nl=False)
    if "stderr" not in streamed:
        click.echo(output.stderr, nl=False, err=True)
    shown = _shown(output.result)
    if shown is not None and output.error is None:
        click.echo(shown)
    if output.truncated:
        click.echo("(output over the limit was dropped)", err=True)
