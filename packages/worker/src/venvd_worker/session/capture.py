"""Captures what Python, C code and child processes write to descriptors 1 and 2."""

from __future__ import annotations

import _thread
import io
import os
import select
import sys
from typing import Any, Callable, Dict, Optional

from venvd_worker.common import kernel
from venvd_worker.common.descriptors import lift
from venvd_worker.session.output import Output

_CHUNK = 64 * 1024
_MOST_CHUNKS = 16
_STACK = 256 * 1024
"""Bytes of stack for the thread. The usual 8 MB would count against a limit on memory."""
_STREAMS = {"stdout": 1, "stderr": 2}


class Capture:
    """Points descriptors 1 and 2 at pipes while an `exec` runs, and at the worker host's log afterwards.

    A thread empties the pipes meanwhile, because C code may block until they are read. The thread ends with the `exec`,
    because Python warns of forks in a process with threads. Afterwards the warden takes over pipes that background
    processes may still write to.

    Args:
        leave: passes the reading end of such a pipe to the warden, with the name of the stream, and closes it.
    """

    def __init__(self, leave: Callable[[str, int], None]) -> None:
        self._leave = leave
        self._log = {name: lift(os.dup(number)) for name, number in _STREAMS.items()}
        self._pipes: Dict[str, int] = {}
        self._wake, self._woken = -1, -1
        self._output: Optional[Output] = None
        self._lock = _thread.allocate_lock()
        self._done = _thread.allocate_lock()

    def renew_log(self) -> None:
        """Use what descriptors 1 and 2 are now as the worker host's log. Keep the numbers of its descriptors."""
        for name, number in _STREAMS.items():
            os.dup2(number, self._log[name], inheritable=False)

    @property
    def descriptors(self) -> Dict[str, int]:
        """The reading ends of the pipes, while an `exec` runs."""
        return self._pipes

    def close(self) -> None:
        """Close the descriptors of the worker host's log."""
        for descriptor in self._log.values():
            os.close(descriptor)

    @property
    def error_log(self) -> int:
        return self._log["stderr"]

    def bind_streams(self) -> None:
        """Give Python streams over descriptors 1 and 2 that write each printed line at once."""
        for name, number in _STREAMS.items():
            current = getattr(sys, name, None)
            if current is None or getattr(current, "closed", True):
                setattr(sys, name, _text_stream(number))

    def begin(self, output: Output) -> None:
        self.bind_streams()
        _flush()
        self._open()
        self._output = output
        self._done.acquire()
        before = _thread.stack_size(_STACK)
        try:
            _thread.start_new_thread(self._pump, ())
        except BaseException:
            self._output = None
            self._done.release()
            self._give_back()
            self._close()
            raise
        finally:
            _thread.stack_size(before)

    def end(self) -> None:
        """Restore the descriptors. Afterwards the output contains everything that was written."""
        _flush()
        self._give_back()
        os.write(self._wake, b"x")
        self._done.acquire()
        self._done.release()
        self._collect()
        output, self._output = self._output, None
        self._close()
        if output is not None:
            output.end()

    def settle(self) -> None:
        """Collect all that was written so far, so that the next display comes after it."""
        _flush()
        self._collect()

    def _give_back(self) -> None:
        for name, number in _STREAMS.items():
            os.dup2(self._log[name], number)

    def _open(self) -> None:
        for name, number in _STREAMS.items():
            read, write = os.pipe()
            os.set_blocking(read, False)
            os.dup2(write, number)
            os.close(write)
            self._pipes[name] = lift(read)
        if self._woken < 0:
            woken, wake = os.pipe()
            self._woken, self._wake = lift(woken), lift(wake)

    def _close(self) -> None:
        """Close the pipes. If another process still has the other end of one, pass it to the warden."""
        for name in list(self._pipes):
            pipe = self._pipes.pop(name)
            poll = select.poll()
            poll.register(pipe, 0)
            if poll.poll(0):  # no process has the other end open any more
                os.close(pipe)
            else:
                self._leave(name, pipe)

    def _pump(self) -> None:
        try:
            poll = select.poll()
            for descriptor in (*self._pipes.values(), self._woken):
                poll.register(descriptor, select.POLLIN)
            while all(descriptor != self._woken for descriptor, _ in poll.poll()):
                self._collect()
            os.read(self._woken, 1)
        except (OSError, ValueError):
            pass  # the user's code closed the pipes, so no more output comes
        finally:
            self._done.release()

    def _collect(self) -> None:
        with self._lock:
            output = self._output
            if output is not None:
                for name, pipe in self._pipes.items():
                    _read_all(pipe, lambda data, name=name: output.write(name, data))  # type: ignore[misc]


def _read_all(pipe: int, take: Callable[[bytes], Any]) -> None:
    """Read what is in the pipe now. If the writer never pauses, stop after some rounds."""
    for _ in range(_MOST_CHUNKS):
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return
        take(data)
        if len(data) < _CHUNK:
            return


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112 - the user may have put anything there
            continue
    kernel.flush_stdio()


def _text_stream(descriptor: int) -> io.TextIOWrapper:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
