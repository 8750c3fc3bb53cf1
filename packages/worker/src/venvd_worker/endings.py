"""How a session's process ended, as a sentence for people and as a word for programs."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, Dict, Optional

CHANNEL_CLOSED = 120
"""Exit status of a session whose code closed the descriptors that it answers over."""


@dataclass(frozen=True)
class Verdict:
    """Why the warden ended a session: `how` is a sentence without its subject."""

    reason: str
    how: str


def out_of_memory(limit: int) -> Verdict:
    return Verdict("memory", "ran out of memory (limit {} bytes)".format(limit))


def out_of_processes(limit: int) -> Verdict:
    return Verdict("processes", "had more processes than its limit of {}".format(limit))


def out_of_time(limit: int) -> Verdict:
    return Verdict("cpu", "used up its processor time (limit {} seconds)".format(limit))


def not_stopping(grace: float) -> Verdict:
    return Verdict("interrupt", "did not stop within {:g} seconds of its interrupt and was killed".format(grace))


def killed(why: str) -> Verdict:
    return Verdict("idle" if why == "idle" else "kill", "was ended: {}".format(why))


def traced(status: int) -> Verdict:
    """It asked to be traced, by the warden, which has no use for that."""
    return Verdict("signal", "was stopped by {} in the trace that it asked for".format(_signal(os.WSTOPSIG(status))))


def judge(status: int, verdict: Optional[Verdict], memory_kill: bool) -> Dict[str, Any]:
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


def _verdict(code: Optional[int], number: Optional[int], memory_kill: bool) -> Verdict:
    if number is None:
        note = " (its code closed the descriptors of its session)" if code == CHANNEL_CLOSED else ""
        return Verdict("exit", "exited with status {}{}".format(code, note))
    if number == signal.SIGXCPU:
        return Verdict("cpu", "used up its processor time")
    if number == signal.SIGKILL and memory_kill:
        return Verdict("memory", "was killed by the kernel: the worker host ran out of memory")
    return Verdict("signal", "was killed by {}".format(_signal(number)))


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "a real-time signal"
    return "signal {} ({})".format(number, name)
