"""Clients of the pipe that speak its lines, and lie in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.attacks import Target
from harness.door import Raw

MIB = 1 << 20


@pytest.fixture
def raw(pipe: Target) -> Iterator[Raw]:
    """A connection that has shown the token; afterwards the next one is served."""
    with pipe.main.open() as made:
        made.send(json.dumps({"command": "ping", "token": pipe.running.token}).encode() + b"\n")
        assert b"ok" in made.until(b"\n")
        yield made
    pipe.serves()


def reply(raw: Raw) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(raw.until(b"\n").splitlines()[0])
    return line


@pytest.mark.parametrize(
    "sizes", [[2**31], [2**63], [10**400], [1 << 30, 1 << 30], [-1], [1.5], ["1"], [True], 7, {"0": 1}, [0] * 1000]
)
def test_sizes_that_cannot_be(raw: Raw, sizes: object) -> None:
    """A client tries attachments of absurd sizes: they are refused before a byte of them is waited for."""
    raw.send(json.dumps({"id": 1, "command": "ping", "attachments": sizes}).encode() + b"\n")
    answer = reply(raw)
    assert answer["code"] in {"too_large", "invalid_request"}


def test_fewer_bytes_than_announced(raw: Raw) -> None:
    """A client tries attachments that end early: the error has the request's ID, and the connection ends."""
    raw.send(b'{"id":1,"command":"ping","attachments":[100]}\nabc')
    raw.finish()
    (reply,) = map(json.loads, raw.rest().splitlines())
    assert reply["id"] == 1
    assert "3 of the 100 bytes" in reply["error"]


def test_fewer_bytes_and_silence(raw: Raw) -> None:
    """A client tries attachments that never come: they are given up, and the connection ends."""
    raw.send(b'{"id":1,"command":"ping","attachments":[100]}\nabc')
    (reply,) = map(json.loads, raw.rest().splitlines())
    assert reply["code"] == "invalid_request"


def test_more_bytes_than_announced(raw: Raw) -> None:
    """A client tries more bytes than it announced: they are no request; those on a line of their own are."""
    raw.send(b'{"id":1,"command":"ping","attachments":[2]}\nab{"id":2,"command":"pin\n{"id":3,"command":"ping"}\n')
    raw.finish()
    replies = {reply.get("id"): reply for reply in map(json.loads, raw.rest().splitlines())}
    assert replies.keys() == {1, None, 3}
    assert replies[None]["code"] == "invalid_request"
    assert replies[1]["result"] == replies[3]["result"] == {"status": "ok"}


def test_ten_megabytes_of_brackets(raw: Raw) -> None:
    """A client tries deep nesting within the size of a line: it is refused, and the connection goes on."""
    raw.send(b'{"id":1,"command":"eval","payload":{"expression":"1","locals":{"a":' + b"[" * (10 * MIB) + b"\n")
    assert reply(raw)["code"] in {"too_large", "invalid_request"}
    raw.send(b'{"id":2,"command":"ping"}\n')
    assert reply(raw) == {"id": 2, "result": {"status": "ok"}}


def test_a_number_of_a_million_digits(raw: Raw) -> None:
    """A client tries a number that takes for ever to read: it is refused."""
    digits = b"1" * MIB
    raw.send(b'{"id":1,"command":"eval","payload":{"expression":"a","locals":{"a":' + digits + b"}}}\n")
    assert reply(raw)["code"] in {"too_large", "invalid_request"}


@pytest.mark.parametrize("identity", ["x" * 100_000, [[1]], {"a": 1}, 10**300, None, True, 1.5])
def test_ids_of_every_kind(raw: Raw, identity: object) -> None:
    """A client tries IDs of every kind: each gets a short answer."""
    raw.send(json.dumps({"id": identity, "command": "ping"}).encode() + b"\n")
    assert len(json.dumps(reply(raw))) < 2000


def test_a_thousand_calls_and_gone(pipe: Target, raw: Raw) -> None:
    """A client tries to block a session by a thousand calls and leaves: its calls go with it."""
    raw.send(b'{"command":"eval","payload":{"expression":"import time; time.sleep(0.5)"}}\n' * 1000)
    raw.close()
    with pipe.caller() as call:
        assert call("eval", {"expression": "1"}, timeout=20) == {"value": 1}
