"""Two pipes that a direct client brings for its lines. They cost half the kernel time of a socket."""

from __future__ import annotations

import fcntl
import os
import stat
from functools import partial
from typing import Callable, Sequence, Union

from venvd_contract.errors import InvalidRequest
from venvd_contract.internal.control import close_descriptors
from venvd_worker.common.descriptors import lift
from venvd_worker.session.streams import CHUNK

_ENDS = (os.O_RDONLY, os.O_WRONLY)


class Pipes:
    """The session's ends of both pipes. It shares no file description with the client's ends.

    The session also opens the reading end of the replies. So a write never raises SIGPIPE, which user code may have
    set to end the process. If the client leaves, the end of its connection shows that.

    Args:
        brought: the reading end of the requests, and the writing end of the replies. `Pipes` closes both in any case.

    Attributes:
        requests, replies: our ends. Neither blocks.

    Raises:
        InvalidRequest: the descriptors are something else.
    """

    def __init__(self, brought: Sequence[int]) -> None:
        self.descriptors = list(brought)
        if len(brought) != len(_ENDS) or not all(map(_is_pipe, brought, _ENDS)):
            self.close()
            raise InvalidRequest(
                "session.pipes brings two descriptors: where requests are read from, and where replies are written to"
            )
        self.requests, self.replies = brought
        for descriptor in brought:
            os.set_blocking(descriptor, False)
        try:
            path = "/proc/self/fd/{}".format(self.replies)
            self.descriptors.append(lift(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)))
        except OSError:
            pass  # without room or /proc, this relies on Python, which ignores SIGPIPE
        self.read: Callable[[], bytes] = partial(os.read, self.requests, CHUNK)
        self.write: Callable[[Union[bytes, memoryview]], int] = partial(os.write, self.replies)

    def close(self) -> None:
        close_descriptors(self.descriptors)
        self.descriptors.clear()


def _is_pipe(descriptor: int, end: int) -> bool:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode) and flags & os.O_ACCMODE == end
