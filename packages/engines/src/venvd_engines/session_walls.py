"""Describes the walls between the sessions of one backend on this kernel, for operators."""

from __future__ import annotations

from collections.abc import Iterator

from venvd_worker.common import landlock, seccomp


def hides_files() -> bool:
    """Return whether a session sees only the files of the system, of its venv and its own."""
    return landlock.find_version() > 0


def list_gaps() -> Iterator[str]:
    """Yield a sentence for each wall between sessions that is missing."""
    version = landlock.find_version()
    if not version:
        yield (
            "The kernel has no Landlock: the sessions of one backend can read each other's files and memory, and end "
            "each other. They are isolated against faults only."
        )
    elif version < landlock.SIGNALS_SINCE:
        yield (
            f"The kernel has version {version} of Landlock: the sessions of one backend can signal each other, "
            "and connect to each other's abstract sockets. "
            f"Version {landlock.SIGNALS_SINCE} (Linux 6.12) keeps these apart too."
        )
    if not seccomp.is_known():
        yield "There is no filter of system calls for this machine's architecture; x86_64 and aarch64 have one."
