"""Leadership: of several controllers on one state, the holder of a Kubernetes Lease runs.

`split` makes two processes of the program. The first renews the Lease and does nothing else. The second is the
controller. It waits until it leads, and the kernel ends it if the renewals stop. So it ends before another controller
may begin, even if it hangs or was frozen, and a busy controller delays no renewal. The first process gives the Lease up
when the second has ended for any reason.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from venvd_contract.errors import Unavailable, VenvdError
from venvd_controller.auth import OPEN
from venvd_controller.controller import Controller
from venvd_controller.database import connect
from venvd_controller.settings import Settings
from venvd_engines.kubernetes.lease import ANOTHER, Election, Standing
from venvd_http.asgi import JSON, Receive, Scope, Send, send_whole
from venvd_http.edge import create_edge
from venvd_http.problems import refuse
from venvd_http.server import create_server
from venvd_http.tls import Tls

log = logging.getLogger("venvd.leader")

_FIRST_REASON = "no controller leads yet"
_BEGINS = "this controller begins to lead"
_FOLLOWER_OK = b"follower=ok"
"""With this query, `/readyz` also succeeds if the controller waits for the end of another one."""
_AT_ONCE = 0.001
_RETRY_SECONDS = 1.0
_BY_SIGNAL = 128


class Lead:
    """The lead of this process, the controller.

    Attributes:
        reason: why the controller does not serve.
        waits: whether the controller waits for the end of another one that leads.
    """

    def __init__(self, messages: socket.socket) -> None:
        self.reason = _FIRST_REASON
        self.waits = False
        self._messages = messages
        self._leads = threading.Event()
        threading.Thread(target=self._follow_messages, name="lead", daemon=True).start()

    def _follow_messages(self) -> None:
        for line in self._messages.makefile():
            until, reason, self.waits = json.loads(line)
            self.reason = _BEGINS if until is not None else reason
            if until is not None:
                # The kernel ends this process at that time, unless another message comes before.
                signal.setitimer(signal.ITIMER_REAL, max(_AT_ONCE, until - time.monotonic()))
                self._leads.set()
        log.critical("the process that renews the Lease is gone")
        os._exit(1)

    def wait(
        self, settings: Settings, listener: socket.socket, tls: Tls | None, create: Callable[[], Controller]
    ) -> Controller | None:
        """Answer requests with the reason until this process leads and has called `create`. Return the controller.

        Returns None if a signal ended the wait before.
        """
        server = create_server(
            _Follower(self), create_edge(settings), stall_timeout=settings.stall_timeout, tls=tls, probes=OPEN,
            date_header=True, signals=True,
        )  # fmt: skip
        created: Future[Controller] = Future()

        def begin() -> None:
            self._leads.wait()
            try:
                created.set_result(create())
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                created.set_exception(error)
            server.should_exit = True

        threading.Thread(target=begin, name="begin", daemon=True).start()
        server.run(sockets=[listener.dup()])
        return created.result() if created.done() else None

    def announce(self) -> None:
        """Tell the first process that the controller serves, so the Service may lead to it."""
        self._messages.send(b"\n")


class _Follower:
    """ASGI application of a controller that does not lead: answers probes, and refuses all other requests."""

    def __init__(self, lead: Lead) -> None:
        self._lead = lead

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        waits = path == "/readyz" and scope["query_string"] == _FOLLOWER_OK and self._lead.waits
        if waits or path in OPEN - {"/readyz"}:
            await send_whole(send, 200, ((b"content-type", JSON),), b'{"status":"ok"}')
        else:
            await refuse(send, Unavailable(self._lead.reason))


def split(settings: Settings, lease: str, home_id: str) -> Lead:
    """Return in a second process, which waits for the lead. The first process ends when the second has ended.

    Raises:
        InvalidRequest: the URL of the database is wrong, or its driver is not installed.
    """
    connect(settings.get_database_url()).dispose()  # this loads the driver, and opens no connection
    holder_end, controller_end = socket.socketpair()
    controller = os.fork()
    if controller == 0:
        holder_end.close()
        return Lead(controller_end)
    controller_end.close()
    election = Election(settings.create_engine_settings(home_id), lease, settings.kubernetes_lease_pod)
    raise SystemExit(_LeaseHolder(election, controller, holder_end).run())


class _LeaseHolder:
    """The process that renews the Lease for a controller."""

    def __init__(self, election: Election, controller: int, messages: socket.socket) -> None:
        self._election = election
        self._controller: int | None = controller
        self._messages = messages
        self._standing = Standing(None, _FIRST_REASON)
        self._labelled: bool | None = None
        self._problem: str | None = None
        self._serves = False
        self._stopping = False

    def run(self) -> int:
        """Renew the Lease until the controller ends. Return the exit status for this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self._has_ended(self._take_turn()):
                pass
        except BaseException:
            self._kill(signal.SIGKILL)
            raise
        controller, self._controller = self._controller, None  # its ID may soon be another process's
        assert controller is not None
        status = os.waitstatus_to_exitcode(os.waitpid(controller, 0)[1])
        self._release()
        if status == -signal.SIGALRM:
            log.critical("the Lease was not renewed in time, so the controller was ended")
        if status == -signal.SIGTERM and self._stopping:
            return 0
        return status if status >= 0 else _BY_SIGNAL - status

    def _has_ended(self, seconds: float) -> bool:
        """Wait for a message of the controller. Return whether the controller has ended."""
        if not select.select([self._messages], [], [], seconds)[0]:
            return False
        try:
            self._serves = bool(self._messages.recv(1))
        except ConnectionResetError:
            self._serves = False
        return not self._serves

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._kill(signal.SIGTERM)

    def _kill(self, number: signal.Signals) -> None:
        if self._controller is not None:
            os.kill(self._controller, number)

    def _take_turn(self) -> float:
        """Take or renew the Lease, and tell the controller. Return the seconds until the next turn."""
        led = self._standing.until is not None
        if self._stopping and not led:
            return _RETRY_SECONDS
        try:
            standing = self._election.take()
        except VenvdError as error:
            self._note(error.message)
            # A leader continues to lead until the end of its last renewal.
            standing = replace(self._standing, reason=error.message, pause=_RETRY_SECONDS)
        else:
            self._note(None)
        self._standing = standing
        if led and standing.until is None:
            log.critical("another process has the Lease: the controller ends")
            self._kill(signal.SIGKILL)
        elif not led and standing.until is not None:
            log.info("this controller leads: it holds the Lease as %s", self._election.identity)
        with suppress(BrokenPipeError):
            message = (standing.until, standing.reason, standing.reason == ANOTHER)
            self._messages.sendall(json.dumps(message).encode() + b"\n")
        self._label(leads=self._serves and standing.until is not None)
        return standing.pause

    def _note(self, problem: str | None) -> None:
        """Log a problem once, and later its end."""
        if problem is not None and problem != self._problem:
            log.warning("%s", problem)
        elif problem is None and self._problem is not None:
            log.info("the Lease can be read and written again")
        self._problem = problem

    def _label(self, *, leads: bool) -> None:
        """Label the pod, unless it has the label already. If that fails, the next turn tries it again."""
        if leads != self._labelled:
            try:
                self._election.label(leads=leads)
            except VenvdError as error:
                log.warning("%s", error.message)
            else:
                self._labelled = leads

    def _release(self) -> None:
        """Give the Lease up. No thread of the controller can need it any more."""
        if self._standing.until is not None:
            try:
                self._election.release()
            except VenvdError as error:
                log.warning("%s; another controller takes the Lease when it has expired", error.message)
        self._election.close()
