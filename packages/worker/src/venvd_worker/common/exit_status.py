"""Explains how a process ended: in a sentence for people, and in a word for programs."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

CHANNEL_CLOSED = 120
"""Exit status of a session whose code closed the descriptors that it answers over."""
NO_DIRECTORY = 121
"""Exit status of a session that cannot work in the directory that its client named."""
_NOTES = {
    CHANNEL_CLOSED: " (its code closed the descriptors of its session)",
    NO_DIRECTORY: " (it cannot work in the directory that cwd names: it is absent, no directory, or closed)",
}


@dataclass(frozen=True)
class EndReason:
    """Why a session ended: a word of `messages.Exited`, and a sentence that lacks its subject."""

    word: str
    how: str


def out_of_memory(limit: int) -> EndReason:
    return EndReason("memory", "ran out of memory (limit {} bytes)".format(limit))


def too_many_processes(limit: int) -> EndReason:
    return EndReason("processes", "had more processes than its limit of {}".format(limit))


def out_of_cpu_time(limit: int) -> EndReason:
    return EndReason("cpu", "used up its processor time (limit {} seconds)".format(limit))


def did_not_stop(grace: float) -> EndReason:
    return EndReason("interrupt", "did not stop within {:g} seconds of its interrupt and was killed".format(grace))


def explain_server_end(why: str) -> EndReason:
    return EndReason("idle" if why == "idle" else "kill", "was ended: {}".format(why))


def explain_trace_stop(status: int) -> EndReason:
    """Explain the stop of a process that asked the warden to trace it; the warden traces no process."""
    text = "was stopped by {} in the trace that it asked for"
    return EndReason("signal", text.format(_name_signal(os.WSTOPSIG(status))))


def explain_exit(status: int, memory_kill: bool) -> EndReason:
    """Explain why a process ended by itself, from the status that `wait` returned.

    `memory_kill` says that meanwhile the kernel has killed a process because memory ran out.
    """
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if number is None:
        return EndReason("exit", describe_exit(status) + _NOTES.get(os.WEXITSTATUS(status), ""))
    if number == signal.SIGXCPU:
        return EndReason("cpu", "used up its processor time")
    if number == signal.SIGKILL and memory_kill:
        return EndReason("memory", "was killed by the kernel: the worker host ran out of memory")
    return EndReason("signal", describe_exit(status))


def describe_exit(status: int) -> str:
    """Describe a status of `wait` in a sentence that lacks its subject, such as "was killed by signal 9 (SIGKILL)"."""
    if os.WIFSIGNALED(status):
        return "was killed by {}".format(_name_signal(os.WTERMSIG(status)))
    return "exited with status {}".format(os.WEXITSTATUS(status))


def exit_code(status: int) -> "int | None":
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def exit_signal(status: int) -> "int | None":
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


def _name_signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "a real-time signal"
    return "signal {} ({})".format(number, name)
