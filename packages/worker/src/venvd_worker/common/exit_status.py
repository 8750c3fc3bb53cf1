"""How a session's process ended, as a sentence for people and as a word for programs."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, Dict, Optional

CHANNEL_CLOSED = 120
"""Exit status of a session whose code closed the descriptors that it answers over."""


@dataclass(frozen=True)
class EndReason:
    """Why the warden ended a session: `how` is a sentence without its subject."""

    reason: str
    how: str


def out_of_memory(limit: int) -> EndReason:
    return EndReason("memory", "ran out of memory (limit {} bytes)".format(limit))


def out_of_processes(limit: int) -> EndReason:
    return EndReason("processes", "had more processes than its limit of {}".format(limit))


def out_of_time(limit: int) -> EndReason:
    return EndReason("cpu", "used up its processor time (limit {} seconds)".format(limit))


def not_stopping(grace: float) -> EndReason:
    return EndReason("interrupt", "did not stop within {:g} seconds of its interrupt and was killed".format(grace))


def killed(why: str) -> EndReason:
    return EndReason("idle" if why == "idle" else "kill", "was ended: {}".format(why))


def traced(status: int) -> EndReason:
    """It asked to be traced, by the warden, which has no use for that."""
    return EndReason("signal", "was stopped by {} in the trace that it asked for".format(_signal(os.WSTOPSIG(status))))


def describe_exit(status: int, verdict: Optional[EndReason], memory_kill: bool) -> Dict[str, Any]:
    """The fields `how`, `exitCode`, `signal` and `reason` of an `exited` event.

    Args:
        status: as `wait` gave it.
        verdict: why the warden ended the process, if it did.
        memory_kill: whether the kernel killed for want of memory meanwhile.
    """
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    if verdict is None:
        verdict = _verdict(code, number, memory_kill)
    return {"how": verdict.how, "exitCode": code, "signal": number, "reason": verdict.reason}


def _verdict(code: Optional[int], number: Optional[int], memory_kill: bool) -> EndReason:
    if number is None:
        note = " (its code closed the descriptors of its session)" if code == CHANNEL_CLOSED else ""
        return EndReason("exit", "exited with status {}{}".format(code, note))
    if number == signal.SIGXCPU:
        return EndReason("cpu", "used up its processor time")
    if number == signal.SIGKILL and memory_kill:
        return EndReason("memory", "was killed by the kernel: the worker host ran out of memory")
    return EndReason("signal", "was killed by {}".format(_signal(number)))


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "a real-time signal"
    return "signal {} ({})".format(number, name)
