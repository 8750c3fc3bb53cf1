"""`venvd shell`: Python on a session, statement by statement."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

import click
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

import venvd
from venvd._cli.code import is_clean_exit
from venvd._cli.displays import Displays
from venvd._cli.prompts import CompleteEvent, Completer, Completion, Document, Prompt, offer
from venvd._cli.running import print_error
from venvd._cli.terminal import write
from venvd._sync.backend import Backend, Commands, Session
from venvd._visible import visible
from venvd_contract.commands import Output

_ASK_TIMEOUT = 3.0
"""Seconds that the session may take to answer the prompt. A session that runs another call takes longer."""
_LONGEST_KEPT = 1 << 16
"""The most characters of a plain value that the session gets as `_`."""
_HELP = re.compile(r"\?\s*(?P<before>[\w.]+)|(?P<after>[\w.]+)\s*\?")
_GREETING = (
    "import sys, platform\n'Python %s (%s) in session %s' % (sys.version.split()[0], platform.machine(), _session)"
)


class Remote:
    """The session as the prompt sees it."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self._source = (files("venvd._cli") / "session_side.py").read_text(encoding="utf-8")

    @property
    def name(self) -> str:
        """The session's name."""
        return self.commands.name if isinstance(self.commands, Session) else "default"

    def ask(self, function: str, text: str) -> Any:
        """Call a function of `session_side` in the session, in a separate namespace."""
        return self.commands.eval(
            f"exec(_source, _scope) or _scope[{function!r}](_text)",
            timeout=_ASK_TIMEOUT,
            _source=self._source,
            _scope={"__name__": "venvd_shell"},
            _text=text,
        )

    def is_incomplete(self, text: str) -> bool:
        """Return whether the session's Python waits for more lines. Return False if the session does not answer."""
        with contextlib.suppress(venvd.VenvdError):
            return bool(self.ask("judge", text) == "incomplete")
        return False

    def interrupt(self) -> None:
        """Interrupt the running call."""
        target = self.commands
        sessions = target.backend.sessions if isinstance(target, Session) else None
        if sessions is None:
            assert isinstance(target, Backend)
            sessions = target.sessions
        with contextlib.suppress(venvd.VenvdError):
            sessions.interrupt(self.name)


class RemoteCompleter(Completer):
    """Offers the names and attributes that the session has."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterable[Completion]:
        """Yield the names that may stand at the cursor, or none while the session runs another call."""
        line = document.current_line_before_cursor
        match = re.search(r"\w*$", line)
        with contextlib.suppress(venvd.VenvdError):
            yield from offer(self._remote.ask("complete", line), match.group() if match else "")


def _bind_keys(remote: Remote) -> KeyBindings:
    """Return the keys of the prompt: Enter adds a line while the statement is incomplete, and Tab indents."""
    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        document = buffer.document
        text = document.text.rstrip(" \t")  # an indented line without text is an empty one
        if document.is_cursor_at_the_end and not remote.is_incomplete(text):
            buffer.validate_and_handle()
            return
        before = document.current_line_before_cursor
        indent = before[: len(before) - len(before.lstrip())]
        buffer.insert_text("\n" + indent + ("    " if before.rstrip().endswith(":") else ""))

    @keys.add("tab")
    def tab(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if not buffer.document.current_line_before_cursor.strip():
            buffer.insert_text("    ")
        elif buffer.complete_state:
            buffer.complete_next()
        else:
            buffer.start_completion(insert_common_part=True)

    return keys


class Shell:
    """Runs statements in a session and prints their results.

    Args:
        remote: the session.
        timeout: seconds that one statement may run.
        displays: saves pictures and HTML.
    """

    def __init__(self, remote: Remote, timeout: float | None, displays: Displays) -> None:
        self.status = 0
        self._remote = remote
        self._timeout = timeout
        self._displays = displays

    def enter(self, source: str) -> bool:
        """Run one entry, and return whether the shell goes on."""
        text = source.strip()
        if not text:
            return True
        if text in {"exit", "quit"}:
            return False
        try:
            question = _HELP.fullmatch(text)
            if question is not None:
                click.echo_via_pager(visible(self._remote.ask("describe", question["before"] or question["after"])))
                return True
            return self._run(source)
        except venvd.VenvdError as error:
            self.status = 1
            print_error(error)
            return True

    def _run(self, source: str) -> bool:
        shown: list[str] = []
        with _interrupts(self._remote):
            for event in self._remote.commands.exec_stream(source, timeout=self._timeout):
                if event.kind in {"stdout", "stderr"}:
                    shown.append(event.kind)
                    write(event.data, nl=False, err=event.kind == "stderr")
                elif event.kind == "display":
                    shown.append(event.kind)
                    self._displays.show(event.data)
                elif event.kind == "result":
                    return self._end(event.data, shown)
        raise venvd.BadReply("the stream of events ended without a result")

    def _end(self, output: Output, shown: list[str]) -> bool:
        """Print the results that no event of the statement has shown. Return whether the shell goes on."""
        if "stdout" not in shown:
            write(output.stdout, nl=False)
        if "stderr" not in shown:
            write(output.stderr, nl=False, err=True)
        if "display" not in shown:
            for bundle in output.display:
                self._displays.show(bundle)
        if output.truncated:
            write("(the output was longer than the limit and is cut)", err=True)
        if output.error is None:
            self._show_result(output)
            return True
        if output.error.errorType == "SystemExit":
            self.status = 0 if is_clean_exit(output.error) else _read_status(output.error.message)
            return False
        self.status = 1
        write(output.error.traceback.rstrip(), err=True)
        return True

    def _show_result(self, output: Output) -> None:
        if output.result is None:
            return
        text = repr(output.result)
        # a rich result has come as a display, with this text in it
        if not (isinstance(output.result, venvd.RemoteObject) and output.display):
            write(text)
        if isinstance(output.result, venvd.RemoteObject) or len(text) <= _LONGEST_KEPT:
            self._remote.commands.eval("__import__('builtins').__dict__.__setitem__('_', _value)", _value=output.result)


def _read_status(message: str) -> int:
    """Return the exit code of `sys.exit(…)`: a number, or 1 with a message on stderr."""
    if message.isdecimal():
        return int(message) & 0xFF
    write(message, err=True)
    return 1


@contextlib.contextmanager
def _interrupts(remote: Remote) -> Iterator[None]:
    """Let Ctrl-C interrupt the call in the session. A third Ctrl-C leaves the call."""
    pressed = 0

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 2:
            raise KeyboardInterrupt
        # in a thread: the handler may run in the middle of the transport's own code
        threading.Thread(target=remote.interrupt, daemon=True).start()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read_statement(prompt: Prompt, remote: Remote) -> str:
    """Return the next whole statement. Raise `EOFError` if there is none."""
    if prompt.at_terminal:
        return prompt.read(">>> ")
    lines = [prompt.read("")]
    while remote.is_incomplete("\n".join(lines)):
        try:
            lines.append(prompt.read(""))
        except EOFError:
            break
    return "\n".join(lines)


def run_shell(commands: Commands, *, timeout: float | None, save_dir: str | None) -> int:
    """Read and run statements until the user leaves. Return the exit code."""
    remote = Remote(commands)
    greeting = commands.eval(_GREETING, _session=remote.name)
    shell = Shell(remote, timeout, Displays(Path(save_dir) if save_dir else None))
    prompt = Prompt(
        "shell_history",
        RemoteCompleter(remote),
        multiline=True,
        prompt_continuation="... ",
        key_bindings=_bind_keys(remote),
    )
    if prompt.at_terminal:
        write(f"{greeting}. NAME? shows help, Ctrl-C interrupts, Ctrl-D leaves.", err=True)
    read = functools.partial(_read_statement, prompt, remote)
    while True:
        try:
            if not shell.enter(read()):
                return shell.status
        except KeyboardInterrupt:
            write("KeyboardInterrupt", err=True)
        except EOFError:
            return 0 if prompt.at_terminal else shell.status
