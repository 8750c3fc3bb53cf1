"""Signals that end a call: SIGINT where the slot names that call, SIGXCPU where the processor time is used up."""

from __future__ import annotations

import signal
from _signal import getsignal  # type: ignore[import-not-found]  # that of `signal` looks each handler up in an enumeration, on every call
from typing import Callable, TypeVar

from venvd_contract.errors import Cancelled, DeadlineExceeded, VenvdError
from venvd_contract.internal.slots import TIMEOUT
from venvd_worker.session.slot import Slot

_SIGINT, _SIGXCPU = int(signal.SIGINT), int(signal.SIGXCPU)
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class ProcessorTimeUsedUp(BaseException):
    """Raised in the user's code; no Exception, so that it is not swallowed with the user's own errors."""


class Interrupts:
    """Whether and when the running call may be interrupted.

    Only user code is interrupted: a signal that comes earlier takes effect when user code is entered. One call is
    interrupted once; it may catch that and run on, until it is killed.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.armed = False
        """Whether the user's code runs."""
        self._raised = 0
        self._handler: Callable[[int, object], None] = self._on_interrupt
        self._cpu_handler: Callable[[int, object], None] = self._on_used_up

    def install(self) -> None:
        """Install the handlers, again before each call: user code may have replaced them."""
        if getsignal(_SIGINT) is not self._handler:
            signal.signal(signal.SIGINT, self._handler)
        if getsignal(_SIGXCPU) is not self._cpu_handler:
            signal.signal(signal.SIGXCPU, self._cpu_handler)

    def run(self, action: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        """Run the user's code so that it can be interrupted."""
        self.armed = True
        try:
            if self._slot.stop_reason():
                self._check()
            return action(argument)
        finally:
            self.armed = False

    def shield(self, action: Callable[[], _Result]) -> _Result:
        """Run our own code, called by the user's; an interrupt waits until it is done."""
        armed, self.armed = self.armed, False
        try:
            return action()
        finally:
            self.armed = armed
            if armed:
                self._check()

    def stopped(self) -> bool:
        """Whether the running call was interrupted."""
        return self._raised == self._slot.sequence

    def error(self, traceback: str) -> VenvdError:
        """The error of an interrupted call."""
        if self._slot.stop_reason() == TIMEOUT:
            return DeadlineExceeded(
                "the call ran into its deadline and was interrupted; its session keeps its state",
                error_type="KeyboardInterrupt",
                traceback=traceback,
            )
        return Cancelled(
            "the call was interrupted; its session keeps its state", error_type="KeyboardInterrupt", traceback=traceback
        )

    def _check(self) -> None:
        if self._raised != self._slot.sequence and self._slot.stop_reason():
            self.armed = False
            self._raised = self._slot.sequence
            raise KeyboardInterrupt

    def _on_interrupt(self, _number: int, _frame: object) -> None:
        if self.armed:
            self._check()

    def _on_used_up(self, _number: int, _frame: object) -> None:
        if self.armed:  # else the kernel says so again, a second of processor time later
            self.armed = False
            raise ProcessorTimeUsedUp("the session used up its processor time")
