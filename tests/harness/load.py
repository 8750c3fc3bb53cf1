"""Clients at once: each goes round and round what clients do, and checks every answer."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.callers import Caller
from venvd_contract.errors import UserError

CLIENTS = 64
RECONNECT_EVERY = 25
"""Rounds of one client after which it comes back on another connection."""

Connect = Callable[[], Caller]


@dataclass
class Tally:
    """What the clients saw: seconds that each call took, and what went wrong."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    elapsed: float = 0.0

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.seconds, n=100)
        rate = len(self.seconds) / self.elapsed
        spread = ", ".join(f"p{rank} {cuts[rank - 1] * 1000:.1f} ms" for rank in (50, 95, 99))
        return f"{len(self.seconds)} calls, {rate:.0f} a second, {spread}"


class Client:
    """One client: `call` is timed and its answers are compared."""

    def __init__(self, number: int, connect: Connect, session: str | None) -> None:
        self._connect = connect
        self._caller = connect()
        self._session = session
        self.number = number
        self.tally = Tally()

    def run(self, until: float) -> None:
        try:
            for turn in itertools.count():
                if time.monotonic() > until:
                    return
                self.turn(turn)
                if turn % RECONNECT_EVERY == RECONNECT_EVERY - 1:
                    self._caller.close()
                    self._caller = self._connect()
        except Exception as error:  # noqa: BLE001 — whatever goes wrong is what the test is about
            self.tally.wrong.append(f"client {self.number}: {type(error).__name__}: {error}")
        finally:
            self._caller.close()

    def call(self, command: str, **payload: Any) -> Any:
        began = time.monotonic()
        reply = self._caller(command, payload, session=self._session)
        self.tally.seconds.append(time.monotonic() - began)
        return reply

    def expect(self, wanted: Any, actual: Any) -> None:
        if actual != wanted:
            raise AssertionError(f"{actual!r} is not {wanted!r}")

    def turn(self, turn: int) -> None:
        """Small and large values, objects by handle, output, and an error."""
        number = self.number * 1_000_000 + turn
        self.expect({"value": number * 2}, self.call("eval", expression=f"{number} * 2"))
        self.objects(number)
        if turn % 4 == 0:
            self.expect(f"{number}\n", self.call("exec", code=f"print({number})")["stdout"])
            text = f"{number}☃" * 2000
            self.expect({"value": text[::-1]}, self.call("eval", expression="v[::-1]", locals={"v": text}))
        if turn % 8 == 0:
            self.error(number)

    def objects(self, number: int) -> None:
        held = self.call("wrap", value=[number])["handleId"]
        self.expect({"value": 0}, self.call("call", handleId=held, methodName="index", args=[number]))
        self.expect({"success": True}, self.call("dispose", handleId=held))

    def error(self, number: int) -> None:
        try:
            self.call("eval", expression=f"raise ValueError({number})")
        except UserError as error:
            self.expect(str(number), error.message)
        else:
            raise AssertionError("the error was lost")


class Founder(Client):
    """A client that makes a session for each of its turns, and ends it."""

    def turn(self, turn: int) -> None:
        made = self._caller("session.create", {"name": f"founded-{self.number}-{turn}"})["id"]
        self._session = made
        try:
            super().turn(turn)
        finally:
            self._session = None
            self._caller("session.delete", {"id": made})


def load(connect: Connect, sessions: list[str], seconds: float) -> Tally:
    """Let all clients go for that long: shared out over the sessions, one of them founding its own."""
    spread = itertools.cycle(sessions)
    clients: list[Client] = [Client(number, connect, next(spread)) for number in range(CLIENTS - 1)]
    clients.append(Founder(CLIENTS - 1, connect, None))
    began = time.monotonic()
    threads = [threading.Thread(target=client.run, args=(began + seconds,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Tally(elapsed=time.monotonic() - began)
    for client in clients:
        total.seconds += client.tally.seconds
        total.wrong += client.tally.wrong
    return total
