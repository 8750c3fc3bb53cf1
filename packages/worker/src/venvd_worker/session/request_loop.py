"""The session's request loop: it answers the server and direct clients, one request at a time, in turn."""

from __future__ import annotations

import select
from collections import deque
from functools import partial
from time import monotonic
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

from venvd_contract.commands import PIPES
from venvd_contract.errors import VenvdError
from venvd_worker.session import replies
from venvd_worker.session.calls import Calls, parse_value_mode
from venvd_worker.session.direct_stream import DirectStream
from venvd_worker.session.replies import Reply
from venvd_worker.session.segments import Segments
from venvd_worker.session.slot import Slot
from venvd_worker.session.spinning import SessionSpinner
from venvd_worker.session.streams import Stream

_POLL_VALIDITY = 0.005
"""Seconds after which to look for new requests while others wait for their turn."""
_STALL_INTERVAL = 1.0
"""Seconds between checks of clients that do not read."""
_MOST_READY = 64
_READABLE = int(select.EPOLLIN)
_HUNG_UP = select.EPOLLHUP | select.EPOLLERR


class RequestLoop:
    """Answers the streams of a session. Each stream with a request gets a turn before any stream gets a second one.

    Args:
        server: the server's stream. The session ends with it.
        segments: the segments that the session shares with the server.
    """

    def __init__(self, epoll: select.epoll, server: Stream, calls: Calls, slot: Slot, segments: Segments) -> None:
        self._epoll = epoll
        self._wait = partial(epoll.poll, -1, _MOST_READY)
        self._calls = calls
        self._slot = slot
        self._segments = segments
        self._others: Dict[int, Callable[[], None]] = {}
        self._streams: Dict[int, Stream] = {server.fileno(): server}
        self._clients: Set[DirectStream] = set()
        self._watched: Set[int] = set()
        """Descriptors of clients that the epoll watches."""
        self._slow: Set[DirectStream] = set()
        self._turns: Deque[Stream] = deque()
        self._looked = 0.0
        self._aging = (segments.idle, segments.returned, calls.leases)
        """Collections whose members expire."""
        self._server = server
        self.allow_spins(0, 0)

    @property
    def descriptors(self) -> List[int]:
        """The descriptors of direct clients."""
        return [each for client in self._clients for each in client.descriptors]

    def add(self, client: DirectStream) -> None:
        """Serve a client from now on."""
        self._clients.add(client)
        self._streams[client.fileno()] = client
        self._watch(client.fileno(), select.EPOLLIN)
        if client.waiting:
            self._turns.append(client)

    def allow_spins(self, microseconds: int, most: int) -> None:
        """Let waits spin for this many microseconds, in at most `most` sessions at a time."""
        self._spinner = SessionSpinner(partial(self._epoll.poll, 0, _MOST_READY), microseconds, self._slot, most)

    def listen_to_server(self) -> None:
        """Wait for requests of the server from now on."""
        self._epoll.register(self._server.fileno(), select.EPOLLIN)

    def listen(self, descriptor: int, action: Callable[[], None]) -> None:
        """Call `action` whenever `descriptor` is readable. This is for descriptors that carry no requests."""
        self._others[descriptor] = action
        self._epoll.register(descriptor, select.EPOLLIN)

    def serve(self) -> None:
        """Answer until the server is gone.

        Raises:
            EOFError: the server is gone.
            OSError, ValueError: user code closed a descriptor of ours.
        """
        turns, slow, aging = self._turns, self._slow, self._aging
        while True:
            if turns:
                if monotonic() - self._looked > _POLL_VALIDITY:
                    self._poll(0)
                if turns:
                    self._answer(turns.popleft())
            elif slow or any(aging):
                self._poll(None)
            else:
                self.answer_one()

    def answer_one(self) -> None:
        """Wait for requests. Answer a request at once if it comes alone, as most do."""
        spinner = self._spinner
        if spinner.skips:
            spinner.skips -= 1
            ready = self._wait()
        else:
            ready = spinner.spin() or self._wait()
        if len(ready) == 1:
            descriptor, events = ready[0]
            stream = self._streams.get(descriptor)
            if stream is not None and events == _READABLE:
                self._answer(stream)
                return
        self._dispatch(ready)

    def _poll(self, timeout: Optional[float]) -> None:
        """Free segments and handles that have expired, and wait for requests. None as `timeout` is no limit."""
        ends = [end for end in (self._segments.expire(), self._calls.expire()) if end is not None]
        ready = None
        if timeout is None:
            ready = None if self._slow else self._spin()
            timeout = min(ends, default=None)
        if self._slow:
            self._end_stalled()
            timeout = _STALL_INTERVAL if timeout is None else min(timeout, _STALL_INTERVAL)
        self._dispatch(ready or self._epoll.poll(timeout))

    def _spin(self) -> Optional[List[Tuple[int, int]]]:
        """Spin before a wait whose time limit is far longer. Return what is ready, or None."""
        if self._spinner.skips:
            self._spinner.skips -= 1
            return None
        return self._spinner.spin()

    def _dispatch(self, ready: List[Tuple[int, int]]) -> None:
        # This looks up all streams first. If one is dropped meanwhile, a new client may get its descriptor's number.
        ready_streams = [(self._streams.get(descriptor), descriptor, events) for descriptor, events in ready]
        for stream, descriptor, events in ready_streams:
            if stream is None:
                self._others[descriptor]()
            elif not isinstance(stream, DirectStream):
                self._enqueue(stream)
            elif stream in self._clients:
                self._handle_client(stream, descriptor, events)
        self._looked = monotonic()

    def _enqueue(self, stream: Stream) -> None:
        if stream not in self._turns:
            self._turns.append(stream)

    def _handle_client(self, client: DirectStream, descriptor: int, events: int) -> None:
        if events & _HUNG_UP and descriptor == client.fileno() and not self._finishes_requests(client, events):
            self._drop(client)
        elif client.lingers:
            if not client.discard():
                self._drop(client)
        elif client.blocked:
            client.flush()
            self._update(client)
        else:
            self._enqueue(client)

    def _finishes_requests(self, client: DirectStream, events: int) -> bool:
        """Return whether the session still answers requests that a client sent before it left."""
        if client.cancels or client.unreadable:
            return False
        if client.piped:
            self._ignore(client.fileno())
            client.mark_gone()
            self._update(client)
            return True
        return bool(events & _READABLE)

    def _answer(self, stream: Stream) -> None:
        """Answer one request of a stream, if it has one."""
        try:
            request = stream.request()
            if request is None or (stream.fresh and self._is_no_call(stream, request[0])):
                return
            reply: Reply = self._calls.answer(request, stream)
        except VenvdError as error:  # the line is not a request
            reply = replies.error_line(stream.begin, error)
        except EOFError:
            if not isinstance(stream, DirectStream):
                raise
            self._drop(stream)
            return
        try:
            stream.send(reply)
        except OSError:
            self._slot.mark_unanswered()
            raise
        if stream.connection:
            if stream.waiting or stream.blocked or stream.gone or stream.unreadable or self._slow:
                assert isinstance(stream, DirectStream)
                self._update(stream)
        elif stream.unreadable:
            raise EOFError("a line was too long")
        elif stream.waiting:
            self._turns.append(stream)

    def _is_no_call(self, stream: Stream, message: Dict[str, Any]) -> bool:
        """Handle a line that is not a call: a line of the server without a reply, or a client's choice of pipes."""
        if isinstance(stream, DirectStream):
            stream.fresh = False
            if message.get("command") != PIPES:
                stream.drop_brought()
                return False
            self._take_pipes(stream, message)
            self._update(stream)
        elif not self._calls.handle_server_line(message):
            return False
        elif stream.waiting:
            self._turns.append(stream)
        return True

    def _update(self, client: DirectStream) -> None:
        """Decide what to wait for next after a client has taken a reply or a part of it."""
        if client.gone and client.cancels:
            self._drop(client)
        elif client.blocked:
            self._slow.add(client)
            self._ignore(client.source)
            self._watch(client.sink, select.EPOLLOUT)
        elif client.unreadable and client.piped:
            self._drop(client)  # the client can still read what was sent
        elif client.unreadable:
            self._slow.add(client)
            self._watch(client.source, select.EPOLLIN)
            client.linger()
        else:
            if client in self._slow:
                self._slow.discard(client)
                self._ignore(client.sink)
                self._watch(client.source, select.EPOLLIN)
            if client.waiting:
                self._enqueue(client)

    def _take_pipes(self, client: DirectStream, message: Dict[str, Any]) -> None:
        begin = replies.NO_ID
        try:
            begin, _ = replies.head(message.get("id"))
            mode = parse_value_mode(message, client.values)
            client.take_pipes(begin)
            client.values = mode
        except VenvdError as error:
            client.send(replies.error_line(begin, error))
        else:
            self._streams[client.source] = self._streams[client.sink] = client
            self._watch(client.fileno(), 0)  # this only watches for the end of the connection
            self._watch(client.source, select.EPOLLIN)

    def _watch(self, descriptor: int, events: int) -> None:
        if descriptor in self._watched:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
            self._watched.add(descriptor)

    def _ignore(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.remove(descriptor)
            self._epoll.unregister(descriptor)

    def _end_stalled(self) -> None:
        now = monotonic()
        for client in list(self._slow):
            if client.is_stalled(now):
                self._drop(client)

    def _drop(self, client: DirectStream) -> None:
        self._clients.remove(client)
        self._slow.discard(client)
        if client in self._turns:
            self._turns.remove(client)
        for descriptor in {client.fileno(), client.source, client.sink}:
            del self._streams[descriptor]
            self._ignore(descriptor)  # a close would not remove it from the epoll: the server has the same socket
        client.close()
