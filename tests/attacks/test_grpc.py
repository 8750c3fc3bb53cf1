"""Clients of gRPC that break its rules, from frames made by hand up to messages that hold nonsense."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc
import pytest
from harness import http2
from harness.attacks import Target
from harness.door import Raw
from harness.rpc import told

from venvd_contract.errors import InvalidRequest, TooLarge, Unimplemented, VenvdError
from venvd_proto.v1 import python_service_pb2 as messages
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub

MIB = 1 << 20
CALL = messages.EvaluateRequest(expression="1").SerializeToString()


@pytest.fixture(autouse=True)
def unharmed(rpc: Target) -> Iterator[None]:
    """Whatever a test did, the next client is served."""
    yield
    rpc.serves()


@pytest.fixture
def channel(rpc: Target) -> Iterator[grpc.Channel]:
    address = rpc.running.url.removeprefix("grpc://")
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as made:
        yield made


def error_of(call: grpc.Call) -> VenvdError:
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return told(caught.value)


def evaluate(rpc: Target, channel: grpc.Channel, data: bytes, method: str = "Evaluate") -> VenvdError:
    """The error for a message of raw bytes."""
    call = channel.unary_stream(f"/venvd.v1.PythonService/{method}")
    return error_of(call(data, metadata=[("authorization", f"Bearer {rpc.running.token}")], timeout=60))


# ---- messages --------------------------------------------------------------------------------------------------


def test_a_message_over_the_limit(rpc: Target, channel: grpc.Channel) -> None:
    """A client tries a message over the limit: it is RESOURCE_EXHAUSTED."""
    request = messages.EvaluateRequest(expression="1" * (20 * MIB))
    with pytest.raises(grpc.RpcError) as caught:
        PythonServiceStub(channel).Evaluate(request, metadata=[("authorization", f"Bearer {rpc.running.token}")])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("data", [b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x07abc", b"\x0a\x02\xff\xfe", bytes(1000)])
def test_bytes_that_are_no_message(rpc: Target, channel: grpc.Channel, data: bytes) -> None:
    """A client tries bytes that no message is made of: they are an error of their call alone."""
    with pytest.raises(grpc.RpcError):
        list(
            channel.unary_stream("/venvd.v1.PythonService/Evaluate")(
                data, metadata=[("authorization", f"Bearer {rpc.running.token}")], timeout=60
            )
        )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[" * (10 * MIB), TooLarge),
        ('{"a":' * 100_000, TooLarge),
        ("not json", InvalidRequest),
        ("NaN", InvalidRequest),
        ('{"a":1} {"b":2}', InvalidRequest),
        ("[1]", InvalidRequest),
    ],
)
def test_values_that_are_none(rpc: Target, channel: grpc.Channel, text: str, error: type[VenvdError]) -> None:
    """A client tries values that are no JSON or too deep: they are refused with the code of the contract."""
    data = messages.EvaluateRequest(expression="1", locals_json=text).SerializeToString()
    assert isinstance(evaluate(rpc, channel, data), error)


def test_a_method_that_is_none(rpc: Target, channel: grpc.Channel) -> None:
    """A client tries an unknown method: it is UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream("/venvd.v1.PythonService/Destroy")(b"", timeout=60))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert Unimplemented.grpc_status == "UNIMPLEMENTED"


# ---- frames ----------------------------------------------------------------------------------------------------

FRAMES = {
    "a message of 2 GB": lambda token: (
        http2.request("Evaluate", token)
        + http2.frame(http2.DATA, http2.message(CALL, announced=2**31), http2.END_STREAM, 1)
    ),
    "a message of 4 GB": lambda token: (
        http2.request("Evaluate", token) + http2.frame(http2.DATA, http2.message(CALL, announced=2**32 - 1), 0, 1)
    ),
    "less message than announced": lambda token: (
        http2.request("Evaluate", token)
        + http2.frame(http2.DATA, http2.message(CALL, announced=len(CALL) + 5), http2.END_STREAM, 1)
    ),
    "compressed and not said how": lambda token: (
        http2.request("Evaluate", token)
        + http2.frame(http2.DATA, http2.message(CALL, compressed=1), http2.END_STREAM, 1)
    ),
    "gzip that is none": lambda token: (
        http2.request("Evaluate", token, grpc_encoding="gzip")
        + http2.frame(http2.DATA, http2.message(b"no gzip", compressed=1), http2.END_STREAM, 1)
    ),
    "an unknown compression": lambda token: (
        http2.request("Evaluate", token, grpc_encoding="sudoku")
        + http2.frame(http2.DATA, http2.message(CALL, compressed=1), http2.END_STREAM, 1)
    ),
    "a deadline that is none": lambda token: (
        http2.request("Evaluate", token, grpc_timeout="soon")
        + http2.frame(http2.DATA, http2.message(b"\xff"), http2.END_STREAM, 1)
    ),
    "data for no stream": lambda _: http2.frame(http2.DATA, http2.message(CALL), 0, 7),
    "data for stream zero": lambda _: http2.frame(http2.DATA, http2.message(CALL), 0, 0),
    "a stream of the server's": lambda token: http2.request("Evaluate", token, stream=2),
    "a head of a megabyte": lambda token: http2.request("Evaluate", token, x_filler="x" * 16_000) * 64,
    "a head that cannot be unpacked": lambda _: http2.frame(http2.HEADERS, b"\xff" * 500, http2.END_HEADERS, 1),
    "a window of nothing": lambda _: http2.frame(http2.WINDOW_UPDATE, bytes(4)),
    "settings of no size": lambda _: http2.frame(http2.SETTINGS, b"abc"),
    "a frame of no kind": lambda _: http2.frame(200, b"x" * 100, 0xFF, 1) + http2.frame(http2.SETTINGS, b"x"),
}


def test_frames_that_keep_them(rpc: Target) -> None:
    """A client tries the same frames, made by hand and true: they get a result."""
    call = http2.request("Evaluate", rpc.running.token)
    with rpc.main.open() as raw:
        raw.send(http2.opening() + call + http2.frame(http2.DATA, http2.message(CALL), http2.END_STREAM, 1))
        answer = raw.until(b"grpc-status")
    assert [payload for kind, payload in http2.frames(answer) if kind == http2.DATA and payload]


@pytest.mark.parametrize("case", FRAMES)
def test_frames_that_break_the_rules(rpc: Target, case: str) -> None:
    """A client tries frames that break the rules: none gets a result, and the stream or the connection ends."""
    with rpc.main.open() as raw:
        raw.send(http2.opening() + FRAMES[case](rpc.running.token))
        raw.finish()
        kinds = http2.frames(raw.rest())
    assert not [payload for kind, payload in kinds if kind == http2.DATA and payload]


def test_streams_that_are_opened_and_reset(rpc: Target) -> None:
    """A client tries to exhaust the server by thousands of calls that it resets at once: the server serves."""
    with rpc.main.open() as raw:
        raw.send(http2.opening())
        for turn in range(3000):
            number = 2 * turn + 1
            call = http2.request("Evaluate", rpc.running.token, stream=number)
            reset = http2.frame(http2.RESET, (8).to_bytes(4, "big"), 0, number)
            if not raw.send(call + reset):
                break
        rpc.serves()


def test_pings_without_end(rpc: Target) -> None:
    """A client tries a flood of pings: it is sent away."""
    with rpc.main.open() as raw:
        raw.send(http2.opening())
        ping = http2.frame(http2.PING, bytes(8)) * 100
        assert flooded(raw, ping)


def flooded(raw: Raw, data: bytes) -> bool:
    """Whether the server ends a connection on which this comes again and again."""
    raw.socket.settimeout(0.05)
    for _ in range(1000):
        try:
            if not raw.send(data):
                return True
        except TimeoutError:
            pass
        try:
            if not raw.receive():
                return True
        except TimeoutError:
            continue
    return False


def test_a_stream_of_nonsense(rpc: Target, channel: grpc.Channel) -> None:
    """A client tries nonsense on the Session stream: each message gets an error, and the ones between a result."""
    requests = [
        messages.SessionRequest(id=1, command="fly"),
        messages.SessionRequest(id=2, command="eval", payload_json="[" * 100_000),
        messages.SessionRequest(id=3, command="eval", payload_json="\x00"),
        messages.SessionRequest(id=4, command="eval", payload_json='{"expression":"2"}', session="\x00" * 1000),
        messages.SessionRequest(id=5, command="eval", payload_json='{"expression":"2"}', timeout=-1),
        messages.SessionRequest(id=6, command="eval", payload_json='{"expression":"2"}', timeout=float("nan")),
        messages.SessionRequest(id=7, command="ping", attachments=[b"x"] * 1000),
        messages.SessionRequest(id=8, command="eval", payload_json='{"expression":"3"}'),
    ]
    metadata = [("authorization", f"Bearer {rpc.running.token}")]
    replies = {reply.id: reply for reply in PythonServiceStub(channel).Session(iter(requests), metadata=metadata)}
    assert set(replies) == set(range(1, 9))
    assert all(replies[number].HasField("error") for number in range(1, 7))
    assert json.loads(replies[8].result_json) == {"value": 3}
