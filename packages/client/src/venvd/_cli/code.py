"""`venvd eval` and `venvd exec`."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import venvd
from venvd._cli.backend import choose_backend
from venvd._cli.command import Command, State, complete_names, pass_state
from venvd._cli.terminal import write
from venvd._sync.backend import Commands
from venvd_contract.access import KEY_PREFIX
from venvd_contract.commands import ExecutionError, Output
from venvd_contract.resources import Backend
from venvd_contract.values import NotPlain, PlainEncoder

_FILE = re.compile(r"[\w./~-]+\.py")
_STARTING = frozenset({"pending", "starting"})
_LONGEST_START = 300.0
"""Seconds to wait for a backend that is starting."""
_POLL = 0.2


def session_options() -> list[click.Parameter]:
    """Return the options that name a session. `open_session` takes their values."""
    return [
        click.Option(
            ["--backend"], shell_complete=complete_names("backends"), help="Name or URL. Default: the only backend."
        ),
        click.Option(["--token"], help="The backend's token, if --backend is a URL."),
        click.Option(["--session"], help="The session. Default: `default`, which all clients share."),
    ]


class Code(Command):
    """A command that takes code, with the options that name a session."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params[:0] = [
            *session_options(),
            click.Option(
                ["--timeout"],
                type=click.FloatRange(0, min_open=True),
                metavar="SECONDS",
                help="Seconds that the code may run.",
            ),
            click.Argument(["code"]),
        ]


@contextlib.contextmanager
def open_session(state: State, *, backend: str | None, token: str | None, session: str | None) -> Iterator[Commands]:
    """Connect to the session that the options name.

    Raises:
        VenvdError: the session does not exist, or does not answer.
    """
    url, known = (backend, None) if backend and "://" in backend else _find_backend(state, backend)
    with venvd.connect(url, token or known) as connected:
        try:
            yield connected.session(session) if session else connected
        except venvd.Unauthenticated as error:
            if not token and not known:
                raise venvd.Unauthenticated(f"the backend at {url} needs its token: give --token") from None
            source = "given as --token" if token else "that the controller has for it"
            refused = (
                "the key" if not token and known and known.startswith(KEY_PREFIX) else f"the backend's token {source}"
            )
            raise venvd.Unauthenticated(f"the backend at {url} refused {refused}: {error.message}") from None


def _await_start(state: State, name: str) -> Backend:
    """Return a backend. If it is starting, wait for that first, because its port may refuse calls until then."""
    backend = state.controller.backends.get(name)
    if backend.state in _STARTING:
        state.say(f"waiting for {name}, which is {backend.state}")
    deadline = time.monotonic() + _LONGEST_START
    while backend.state in _STARTING and time.monotonic() < deadline:
        time.sleep(_POLL)
        backend = state.controller.backends.get(name)
    return backend


def _find_backend(state: State, name: str | None) -> tuple[str, str | None]:
    """Return a backend's URL from the controller, and the token to call it with."""
    backend = _await_start(state, choose_backend(state, name))
    if backend.url is None:
        why = f": {backend.error}" if backend.error else ""
        raise venvd.Unavailable(f'backend "{backend.name}" is {backend.state}{why}')
    return backend.url, state.controller.token_for(backend)


def _read_code(code: str) -> str:
    """Return the code for a word: from stdin, from a file, or the word itself.

    Raises:
        InvalidRequest: the file or stdin is not UTF-8, or there is no such file.
    """
    if _FILE.fullmatch(code):
        return _read_file(Path(code).expanduser())
    if code != "-":
        return code
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise venvd.InvalidRequest(
            f"the code on stdin is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise venvd.InvalidRequest(
            f"{path} cannot be read: {error.strerror}; code may also come from stdin (-)"
        ) from None
    except UnicodeDecodeError:
        raise venvd.InvalidRequest(f"{path} is not UTF-8") from None


def _to_result(value: Any) -> dict[str, Any]:
    """Return a value as a *result* of the contract. It lacks the handle, which this program releases at its end."""
    if isinstance(value, venvd.RemoteObject):
        return {"isHandle": True, "typeName": venvd.type_name(value), "repr": repr(value)}
    try:
        return {"value": PlainEncoder().encode(value)}
    except NotPlain:
        return {"isHandle": True, "typeName": type(value).__name__, "repr": repr(value)}


def _to_text(value: Any) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else repr(value)


@click.command("eval", cls=Code)
@pass_state
def eval_(state: State, /, code: str, timeout: float | None, **session_names: str | None) -> None:
    """Evaluate CODE (a file.py, or - for stdin) and print the value of its last expression."""
    with open_session(state, **session_names) as session:
        value = session.eval(_read_code(code), timeout=timeout)
        state.show(_to_result(value), _to_text(value))


@click.command("exec", cls=Code)
@pass_state
def exec_(state: State, /, code: str, timeout: float | None, **session_names: str | None) -> None:
    """Run CODE (a file.py, or - for stdin) and print its output while it runs. Exit code 1 if it raises."""
    with open_session(state, **session_names) as session:
        output, streamed = _run(state, session, _read_code(code), timeout)
        if state.json:
            shown = dataclasses.asdict(dataclasses.replace(output, result=None))
            state.show({**shown, "result": _to_result(output.result)})
        else:
            _print_rest(output, streamed)
    if output.error is not None and not is_clean_exit(output.error):
        if not state.json:
            write(output.error.traceback.rstrip(), err=True)
        raise click.exceptions.Exit(1)


def is_clean_exit(error: ExecutionError) -> bool:
    """Return whether the code ended with `sys.exit()` or `sys.exit(0)`."""
    return error.errorType == "SystemExit" and error.message in {"", "0", "None"}


def _run(state: State, target: Commands, code: str, timeout: float | None) -> tuple[Output, set[str]]:
    """Run code, and return its output and the names of the streams that this printed while it ran."""
    streamed: set[str] = set()
    for event in target.exec_stream(code, timeout=timeout):
        if event.kind == "result":
            output: Output = event.data
            return output, streamed
        if event.kind in {"stdout", "stderr"} and not state.json:
            streamed.add(event.kind)
            write(event.data, nl=False, err=event.kind == "stderr")
    raise venvd.BadReply("the stream of events ended without a result")


def _print_rest(output: Output, streamed: set[str]) -> None:
    """Print the result, and the output that did not stream."""
    if "stdout" not in streamed:
        write(output.stdout, nl=False)
    if "stderr" not in streamed:
        write(output.stderr, nl=False, err=True)
    shown = _to_text(output.result)
    if shown is not None and output.error is None:
        write(shown)
    if output.truncated:
        write("(the output was longer than the limit and is cut)", err=True)
