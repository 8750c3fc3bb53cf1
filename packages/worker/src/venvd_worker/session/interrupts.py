"""Signals that end a call.

SIGINT ends the call that the slot names. SIGXCPU ends a call when the session has used up its processor time.
"""

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
    """Ends the user's code. It is not an Exception, so that `except Exception` does not swallow it."""


class Interrupts:
    """Decides when a signal may interrupt the running call.

    A signal interrupts only user code. If it comes earlier, it takes effect when user code begins. A signal interrupts
    each call at most once. The call may catch the interrupt and run on until the warden kills the session.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.armed = False
        """Whether user code runs and may be interrupted."""
        self._raised = 0
        self._handler: Callable[[int, object], None] = self._on_interrupt
        self._cpu_handler: Callable[[int, object], None] = self._on_used_up

    def install(self) -> None:
        """Install the handlers. The session does so before each call, because user code may have replaced them."""
        if getsignal(_SIGINT) is not self._handler:
            signal.signal(signal.SIGINT, self._handler)
        if getsignal(_SIGXCPU) is not self._cpu_handler:
            signal.signal(signal.SIGXCPU, self._cpu_handler)

    def run(self, action: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        """Run user code so that a signal can interrupt it."""
        self.armed = True
        try:
            if self._slot.stop_reason():
                self._check()
            return action(argument)
        finally:
            self.armed = False

    def shield(self, action: Callable[[], _Result]) -> _Result:
        """Run venvd's own code that user code has called. An interrupt waits for the end of the action."""
        was_armed, self.armed = self.armed, False
        try:
            return action()
        finally:
            self.armed = was_armed
            if was_armed:
                self._check()

    def has_interrupted(self) -> bool:
        """Return whether a signal has interrupted the running call."""
        return self._raised == self._slot.sequence

    def error(self, traceback: str) -> VenvdError:
        """Return the error of an interrupted call."""
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
        """Interrupt the running call if the slot asks for it and no signal has interrupted it before."""
        if self._raised != self._slot.sequence and self._slot.stop_reason():
            self.armed = False
            self._raised = self._slot.sequence
            raise KeyboardInterrupt

    def _on_interrupt(self, _number: int, _frame: object) -> None:
        if self.armed:
            self._check()

    def _on_used_up(self, _number: int, _frame: object) -> None:
        if self.armed:  # otherwise the kernel sends the signal again after a second of processor time
            self.armed = False
            raise ProcessorTimeUsedUp("the session used up its processor time")
