"""Fuzzing of what the gRPC server reads and writes beside grpc and protobuf: chunks, fields, and JSON in messages."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import DecodeError
from harness.fuzzing import choose, damaged, fuzz, json_texts, objects, outcome
from hypothesis import strategies as st

from venvd_contract.arrays import Header
from venvd_contract.errors import Internal, InvalidRequest, TooLarge
from venvd_core.calls import Call, Reply, Request
from venvd_proto import chunks
from venvd_proto.v1.python_service_pb2 import (
    ArrayHeader,
    CallMethodRequest,
    CallMethodResponse,
    PutArrayRequest,
    SessionResponse,
)
from venvd_rpc_backend import messages
from venvd_rpc_backend.arrays import parse_part
from venvd_rpc_backend.context import parse_bearer, parse_seconds, read_metadata
from venvd_rpc_backend.stream import write_response

headers = st.builds(
    ArrayHeader,
    dtype=st.sampled_from(["<f8", "|u1", "|O", "", "x" * 500]),
    shape=st.lists(st.sampled_from([0, 1, 3, (1 << 63) - 1, (1 << 64) - 1]), max_size=4),
    order=st.sampled_from(["", "C", "F", "K"]),
)
parts = (
    st.builds(lambda header: PutArrayRequest(header=header).SerializeToString(), headers)
    | st.binary(max_size=300).map(chunks.dump)
    | st.tuples(st.binary(max_size=4).map(chunks.dump), st.binary(max_size=4).map(chunks.dump)).map(b"".join)
    | st.sampled_from(
        [b"\x12\x80\x00", b"\x12\x85\x80\x80\x80\x00hello", b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"]
    )
)


def read_protobuf(data: bytes) -> PutArrayRequest | None:
    try:
        return PutArrayRequest.FromString(data)
    except DecodeError:
        return None


@fuzz(damaged(parts, 3))
def test_chunks(data: bytes) -> None:
    """A message is read as protobuf reads it, or refused; the way around protobuf finds the same bytes."""
    message = read_protobuf(data)
    chunk = chunks.load(data)
    if chunk is not None:
        assert message is not None
        assert (message.WhichOneof("part"), message.chunk) == ("chunk", bytes(chunk))
    kind, part = outcome(lambda: parse_part(data), InvalidRequest, TooLarge)
    if kind == "value":
        assert message is not None
        assert message.WhichOneof("part") == ("header" if isinstance(part, Header) else "chunk")
        assert isinstance(part, Header) or bytes(part) == message.chunk
    else:
        assert 0 < len(part) < 1000


@fuzz(st.binary(max_size=400))
def test_chunks_round_trip(data: bytes) -> None:
    """A chunk that is written without protobuf is read by both."""
    for size in (len(data), 127, 128, 16_384):
        whole = (data * (1 + size // max(1, len(data))))[:size]
        written = chunks.dump(whole)
        assert PutArrayRequest.FromString(written).chunk == whole
        assert bytes(chunks.load(written) or b"") == whole


requests = st.builds(
    lambda arguments, names, method: CallMethodRequest(
        handle_id="h", method_name=method, args_json=arguments, kwargs_json=names
    ).SerializeToString(),
    json_texts.map(lambda text: text.decode("latin-1")),
    json_texts.map(lambda text: text.decode("utf-8", "replace")),
    st.sampled_from(["m", "", "\u2028", '"', "\\"]),
)


@fuzz(damaged(requests, 4))
def test_grpc_requests(data: bytes) -> None:
    """A request becomes one JSON object, with its JSON fields as they are, or a documented error."""
    try:
        message = CallMethodRequest.FromString(data)
    except DecodeError:
        return
    kind, payload = outcome(lambda: messages.write_payload(message), InvalidRequest, TooLarge)
    if kind == "value":
        for name in ("args_json", "kwargs_json"):
            assert getattr(message, name).encode() in payload
        kind, parsed = outcome(lambda: json.loads(payload), RecursionError, ValueError)
        if kind == "value":  # the standard library reads no integers of thousands of digits
            assert type(parsed) is dict
            assert parsed.get("methodName", "") == message.method_name


results = objects(
    {
        "value": json_texts,
        "isHandle": choose(True, False, 1),
        "handleId": choose("h", 5, None),
        "typeName": json_texts,
        "items": st.lists(json_texts, max_size=3).map(lambda items: b"[" + b",".join(items) + b"]"),
    }
)


def text_of(read: Any, data: bytes) -> Any:
    return outcome(lambda: read(data), Internal)


@fuzz(damaged(results | json_texts, 4))
def test_grpc_results(data: bytes) -> None:
    """Whatever a session answers becomes a message or `Internal`, and the short way around agrees with the long one."""
    kind, message = outcome(lambda: messages.fill(CallMethodResponse(), data), Internal)
    only = messages.find_only_value(data)
    if only is not None and kind == "value":
        assert message.value_json.encode() == only
        assert json.loads(only) is not None or only
    assert text_of(messages.read_value, data)[0] in {"value", "Internal"}
    assert text_of(messages.read_text, data)[0] in {"value", "Internal"}
    assert text_of(lambda result: messages.read_member(result, "value"), data)[0] in {"value", "Internal"}


@fuzz(damaged(results | json_texts, 4))
def test_grpc_session_responses(data: bytes) -> None:
    """A response that is written without protobuf is read by it, with the same result and attachments."""
    call = Call(Request("eval", b"{}"))
    call.end(Reply(data, [b"", data]))
    response = SessionResponse.FromString(write_response(7, call))
    assert response.id == 7
    if response.HasField("error"):
        assert outcome(data.decode, UnicodeDecodeError)[0] == "UnicodeDecodeError"
    else:
        assert (response.result_json.encode(), list(response.attachments)) == (data, [b"", data])


@fuzz(
    st.tuples(st.sampled_from([b"Bearer ", b"bearer\t", b"Basic ", b"", b"nan", b"1e999", b"-"]), json_texts).map(
        b"".join
    )
)
def test_grpc_metadata(data: bytes) -> None:
    """Metadata are read, or refused with a sentence."""
    text = data.decode("latin-1")
    given = [("authorization", text), ("x-venvd-lease", text), ("other", text)]
    kinds = {outcome(lambda read=read: read(text), InvalidRequest)[0] for read in (parse_bearer, parse_seconds)}
    assert kinds <= {"value", "InvalidRequest"}
    kind, fields = outcome(lambda: read_metadata(given), InvalidRequest)
    if kind == "value":
        assert isinstance(fields.lease, float)
