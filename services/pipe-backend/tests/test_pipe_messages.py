"""Bytes become requests."""

from __future__ import annotations

import pytest

from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_pipe_backend.compat import BYTE_ORDER_MARK
from venvd_pipe_backend.messages import MalformedError, Message, Reader, parse


def reader(data: bytes = b"", max_line: int = 1000, max_attachment_bytes: int = 100) -> Reader:
    made = Reader(max_line, max_attachment_bytes)
    made.feed(data)
    return made


def one(line: bytes) -> Message:
    request = reader(line + b"\n").next()
    assert request is not None
    return request


def wrong(data: bytes, **limits: int) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        reader(data, **limits).next()
    return caught.value


def test_a_line_may_come_in_pieces() -> None:
    """A request is there when its line end is, whatever pieces it came in."""
    requests = reader()
    for byte in b'{"command":"ping"}':
        requests.feed(bytes([byte]))
        assert requests.next() is None
    assert requests.midway
    requests.feed(b"\n")
    message = requests.next()
    assert message is not None
    assert message.command == "ping"
    assert not requests.midway


def test_a_mark_and_crlf() -> None:
    """A byte order mark before the first line and CR before the line end are no part of the line."""
    marked = Reader(1000, 100, BYTE_ORDER_MARK)
    marked.feed(BYTE_ORDER_MARK + b'{"command":"ping"}\r\n')
    message = marked.next()
    assert message is not None
    assert message.command == "ping"


def test_a_mark_without_compat() -> None:
    """Where no mark is known, the line with it is not JSON."""
    assert "not JSON" in wrong(BYTE_ORDER_MARK + b'{"command":"ping"}\n').error.message


def test_blank_lines_are_skipped() -> None:
    """Lines of white space are no requests."""
    assert one(b'\r\n\n  \n{"command":"ping"}').command == "ping"


def test_several_lines_at_once() -> None:
    """Pipelined requests come out one after the other."""
    requests = reader(b'{"command":"a"}\n{"command":"b"}\n')
    commands = [message.command for message in iter(requests.next, None) if message]
    assert commands == ["a", "b"]


@pytest.mark.parametrize("name", ["tag", "name", "size", "behind", "on_event", "sesion", "a\\nb`"])
def test_only_fields_of_the_contract_are_read(name: str) -> None:
    """What a request carries beside its line cannot be set by the line, whatever it is called inside the server."""
    with pytest.raises(MalformedError) as raised:
        parse(b'{"id":7,"command":"x","%b":1}' % name.encode())
    assert raised.value.id == b"7"
    assert "is unknown" in raised.value.error.message
    assert ('is "session" meant?' in raised.value.error.message) == (name == "sesion")


def test_null_is_absent() -> None:
    """Fields that are null are as if they were not there."""
    message = one(
        b'{"command":"eval","id":null,"payload":null,"session":null,"timeout":null,"values":null,"token":null,'
        b'"attachments":null,"stream":null}'
    )
    assert (bytes(message.tag), bytes(message.payload), message.session, message.timeout) == (b"", b"{}", None, None)


@pytest.mark.parametrize("identity", [b'"a"', b"1", b"-2.5", b"18446744073709551616", b'"\\u0000"'])
def test_ids_are_kept_as_they_came(identity: bytes) -> None:
    """A text or a number of any size is an ID, and none of it is changed."""
    assert bytes(one(b'{"command":"x","id":' + identity + b"}").tag) == identity


@pytest.mark.parametrize("identity", [b"true", b"[1]", b'{"a":1}', b'"' + b"x" * 300 + b'"'])
def test_other_ids_are_refused(identity: bytes) -> None:
    """An ID that is no text or number, or too long to be repeated, is named."""
    error = wrong(b'{"command":"x","id":' + identity + b"}\n")
    assert isinstance(error.error, InvalidRequest)
    assert '"id"' in error.error.message
    assert not error.fatal


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"nonsense", "not JSON"),
        (b"[]", "object"),
        (b"{}", "command"),
        (b'{"command":5}', "command"),
        (b'{"command":"x","timeout":"soon"}', "timeout"),
        (b'{"command":"x","stream":1}', "stream"),
        (b'{"command":"x","payload":{"a":NaN}}', "not JSON"),
        (b'{"command":"\xff"}', "not UTF-8"),
        (b'{"command":"x","payload":"\xc0\x80"}', "not UTF-8"),
        (b"\x00\x01\x02", "not JSON"),
    ],
)
def test_what_is_no_request_is_named(line: bytes, named: str) -> None:
    """A line that is no request says why, and the next line is read."""
    requests = reader(line + b'\n{"command":"ping"}\n')
    with pytest.raises(MalformedError, match=named) as caught:
        requests.next()
    assert isinstance(caught.value.error, InvalidRequest)
    assert not caught.value.fatal
    following = requests.next()
    assert following is not None
    assert following.command == "ping"


def test_a_wrong_field_keeps_the_id() -> None:
    """The error of a request with a wrong field belongs to its ID."""
    assert wrong(b'{"id":7,"command":"x","timeout":"soon"}\n').id == b"7"


def test_nesting_without_end() -> None:
    """Ten megabytes of brackets are too large, not a crash."""
    error = wrong(b'{"command":"x","payload":' + b"[" * 10_000_000 + b"\n", max_line=11_000_000)
    assert isinstance(error.error, TooLarge)


def test_a_long_line_ends_the_stream() -> None:
    """A line over the limit is refused before it is whole, and nothing after it can be understood."""
    error = wrong(b"x" * 1001)
    assert isinstance(error.error, TooLarge)
    assert error.fatal


def test_attachments_stand_behind_the_line() -> None:
    """As many bytes as were announced belong to the request, line ends among them."""
    requests = reader(b'{"command":"x","attachments":[3,0,2]}\na\nb')
    assert requests.next() is None
    assert requests.midway
    requests.feed(b'cd{"command":"y"}\n')
    message, following = requests.next(), requests.next()
    assert message is not None
    assert following is not None
    assert list(message.attachments or ()) == [b"a\nb", b"", b"cd"]
    assert following.command == "y"


@pytest.mark.parametrize(
    "sizes",
    [b"[2147483648]", b"[101]", b"[60,60]", b"[-1]", b'["1"]', b"5", b"[1.5]", b"[1e300]", b"[" + b"0," * 64 + b"0]"],
)
def test_attachments_that_cannot_be_taken_end_the_stream(sizes: bytes) -> None:
    """Lengths that are wrong or too large are refused at once: it is unknown where the next line begins."""
    error = wrong(b'{"id":1,"command":"x","attachments":' + sizes + b"}\n")
    assert isinstance(error.error, (InvalidRequest, TooLarge))
    assert error.fatal
    assert error.id == b"1"


def test_the_end_of_the_stream_ends_the_last_line() -> None:
    """A last line without an end is a request where it is whole."""
    requests = reader(b'{"command":"ping"}')
    requests.end()
    message = requests.next()
    assert message is not None
    assert message.command == "ping"


def test_the_end_within_a_line() -> None:
    """A last line that is not whole is no request."""
    requests = reader(b'{"command":"pi')
    requests.end()
    with pytest.raises(MalformedError, match="not JSON"):
        requests.next()
    assert not requests.midway


def test_the_end_within_attachments() -> None:
    """The error for attachments that end early says how many bytes were announced."""
    requests = reader(b'{"id":4,"command":"x","attachments":[10]}\nabc')
    assert requests.next() is None
    with pytest.raises(MalformedError, match="3 of the 10 bytes") as caught:
        requests.end()
    assert caught.value.id == b"4"
    assert not requests.midway
