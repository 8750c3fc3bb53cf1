"""Lines of replies, and their order."""

from __future__ import annotations

import json

from venvd_contract.errors import SessionLost, UserError
from venvd_core.backend import Reply
from venvd_pipe_backend import replies
from venvd_pipe_backend.replies import Order


def test_a_result_line() -> None:
    """A reply repeats the ID and holds the result as it came."""
    assert replies.result(replies.head(b'"a"'), Reply(b'{"value": 1}')) == b'{"id":"a","result":{"value": 1}}\n'


def test_a_result_without_an_id() -> None:
    """Where the request had no ID the reply has none."""
    assert replies.result(replies.head(b""), Reply(b"[1]")) == b'{"result":[1]}\n'


def test_attachments_are_announced() -> None:
    """Attachments stand behind the line that names their lengths."""
    line = replies.result(replies.head(b"1"), Reply(b"{}", [b"ab", b"\n"]))
    assert line == b'{"id":1,"result":{},"attachments":[2,1]}\nab\n'


def test_an_error_line() -> None:
    """An error holds message and code, and type, traceback and lost state where there are such."""
    line = replies.failure(replies.head(b"1"), UserError("böse", error_type="E", traceback="T"))
    assert json.loads(line) == {"id": 1, "error": "böse", "code": "user_error", "errorType": "E", "traceback": "T"}
    assert json.loads(replies.failure(b"{", SessionLost("gone")))["stateLost"] is True


def test_an_event_line() -> None:
    """An event names its kind and holds its data."""
    assert replies.event(replies.head(b"1"), "stdout", b'"a\\n"') == b'{"id":1,"event":"stdout","data":"a\\n"}\n'


def test_lone_surrogates_are_escaped() -> None:
    """Text that has no UTF-8 still makes a line of JSON."""
    assert json.loads(replies.failure(b"{", UserError("\udfff")))["error"] == "\udfff"


def test_replies_keep_the_order_of_requests() -> None:
    """A reply waits for those of the requests before it."""
    written: list[bytes] = []
    order = Order(written.append)
    first, second, third = order.turn(), order.turn(), order.turn()
    third.end(b"3")
    second.end(b"2")
    assert written == []
    first.end(b"1")
    assert b"".join(written) == b"123"


def test_events_keep_the_order_too() -> None:
    """Events of the request whose turn it is come at once, those of others with their turn."""
    written: list[bytes] = []
    order = Order(written.append)
    first, second = order.turn(), order.turn()
    first.write(b"a")
    second.write(b"x")
    assert written == [b"a"]
    first.end(b"b")
    assert written == [b"a", b"b", b"x"]
    second.write(b"y")
    second.end(b"z")
    assert written[-2:] == [b"y", b"z"]
