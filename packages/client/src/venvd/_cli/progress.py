"""Waits for an operation, and prints its phases and log on stderr. Ctrl-C cancels the operation."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

import venvd
from venvd._cli.command import State
from venvd._cli.terminal import write
from venvd._visible import visible
from venvd_contract.resources import Event, OperationInfo

_SHORTEST_SHOWN = 0.1
"""The time of a phase is printed if it took at least this many seconds."""


class FailedError(click.ClickException):
    """An operation failed or was cancelled. The exit code is 1, whatever the operation's error is."""

    def __init__(self, operation: OperationInfo, error: venvd.VenvdError) -> None:
        outcome = f"{operation.kind} of {operation.target} "
        outcome += "was cancelled" if isinstance(error, venvd.Cancelled) else "failed"
        super().__init__(outcome if error.message == outcome else f"{outcome}: {error.message}")
        self.reason = type(error)(self.message)


class Progress:
    """Prints the events of an operation line by line, to a terminal, pipe or file."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._since = 0.0
        self._replaceable = False

    def __call__(self, event: Event) -> None:
        if event.kind == "phase":
            self.finish_phase()
            self._phase, self._since = str(event.data), time.monotonic()
            self._line(f"{event.data} …")
        elif event.kind == "log":
            self._line(f"  {event.data}", dim=True)
        elif event.kind == "progress" and sys.stderr.isatty():
            click.echo(f"\r\033[K  {visible(str(event.data))}", err=True, nl=False)
            self._replaceable = True
        elif event.kind == "done":
            self.finish_phase()

    def finish_phase(self) -> None:
        """Print how long the current phase took."""
        took = time.monotonic() - self._since
        if self._phase is not None and took >= _SHORTEST_SHOWN:
            self._line(f"{self._phase}: {took:.1f} s")
        self._phase = None

    def _line(self, text: str, **style: Any) -> None:
        if self._replaceable:
            click.echo("\r\033[K", err=True, nl=False)
            self._replaceable = False
        write(text, err=True, **style)


def wait(state: State, operation: OperationInfo | None) -> None:
    """Wait until the operation is done. Ctrl-C cancels it. A second Ctrl-C ends the wait.

    Raises:
        FailedError: the operation failed or was cancelled.
        click.ClickException: the operation succeeded before Ctrl-C could cancel it, or the wait ended.
    """
    if operation is None:
        return
    progress = Progress()
    try:
        state.controller.operations.wait(operation, progress)
    except KeyboardInterrupt:
        _cancel(state, operation)
    except (venvd.NoController, venvd.Unauthenticated):
        raise
    except venvd.VenvdError as error:
        progress.finish_phase()
        raise FailedError(operation, error) from None


def _cancel(state: State, operation: OperationInfo) -> None:
    state.say(f"\ncancelling {operation.kind} of {operation.target} (Ctrl-C again stops waiting)")
    try:
        state.controller.operations.cancel(operation.id)
        state.controller.operations.wait(operation)
    except KeyboardInterrupt:
        raise click.ClickException(
            f"it is being cancelled, and `venvd operation wait {operation.id}` waits for its end"
        ) from None
    except (venvd.NoController, venvd.Unauthenticated):
        raise
    except venvd.VenvdError as error:
        raise FailedError(operation, error) from None
    raise click.ClickException(f"{operation.kind} of {operation.target} succeeded before it could be cancelled")
