"""The gRPC server as a client made from the proto alone sees it, in front of a real worker host."""

from __future__ import annotations

import json
import math
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo
from grpc_status import rpc_status

from venvd_proto.v1 import python_service_pb2 as pb
from venvd_proto.v1 import session_service_pb2 as session_pb
from venvd_proto.v1 import venv_service_pb2 as venv_pb
from venvd_proto.v1 import venv_service_pb2_grpc

from .conftest import METADATA, TOKEN, Server, Start, until  # type: ignore[import-not-found]

SLEEP = "import time\nwhile True: time.sleep(0.01)"


def evaluate(server: Server, expression: str, **options: Any) -> Any:
    options.setdefault("metadata", METADATA)
    return server.python.Evaluate(pb.EvaluateRequest(expression=expression), **options)


def failed(call: Any, *arguments: Any, **options: Any) -> tuple[grpc.StatusCode, ErrorInfo, DebugInfo]:
    def whole() -> None:
        response = call(*arguments, **options)
        if hasattr(response, "__next__"):
            list(response)

    with pytest.raises(grpc.RpcError) as caught:
        whole()
    info, debug = ErrorInfo(), DebugInfo()
    for detail in rpc_status.from_call(caught.value).details:
        detail.Unpack(info) or detail.Unpack(debug)
    return caught.value.code(), info, debug


def busy(server: Server) -> bool:
    info = server.sessions.GetSession(session_pb.GetSessionRequest(id="default"), metadata=METADATA)
    return bool(info.session.state == "busy")


@pytest.mark.slow
def test_objects_by_handle(server: Server) -> None:
    """Modules, objects, methods and attributes work by handle, with arguments as JSON."""
    python = server.python
    module = python.ImportModule(pb.ImportModuleRequest(module_name="collections"), metadata=METADATA)
    assert module.type_name == "module"
    request = pb.CreateObjectRequest(
        module_handle_id=module.handle_id, class_name="deque", args_json="[[1, 2, 3]]", kwargs_json='{"maxlen": 2}'
    )
    made = python.CreateObject(request, metadata=METADATA)
    call = pb.CallMethodRequest(handle_id=made.handle_id, method_name="pop")
    assert python.CallMethod(call, metadata=METADATA).value_json == "3"
    attribute = pb.GetAttributeRequest(handle_id=made.handle_id, attribute_name="maxlen")
    assert python.GetAttribute(attribute, metadata=METADATA).value_json == "2"
    python.DisposeHandle(pb.DisposeHandleRequest(handle_ids=[made.handle_id]), metadata=METADATA)
    code, info, _ = failed(python.GetAttribute, attribute, metadata=METADATA)
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "handle_not_found")


def test_values_and_arrays(server: Server) -> None:
    """Values keep their size, and arrays of floats come as doubles."""
    assert evaluate(server, "2**80").value_json == "1208925819614629174706176"
    wrapped = server.python.WrapValue(pb.WrapValueRequest(value_json='[1, {"$float": "-inf"}]'), metadata=METADATA)
    request = pb.ToFloatArrayRequest(handle_id=wrapped.handle_id)
    assert list(server.python.ToFloatArray(request, metadata=METADATA).data) == [1.0, -math.inf]
    wrapped = server.python.WrapValue(pb.WrapValueRequest(value_json="[[1], [2, 3]]"), metadata=METADATA)
    rows = server.python.ToFloatArray2D(pb.ToFloatArray2DRequest(handle_id=wrapped.handle_id), metadata=METADATA).rows
    assert [list(row.data) for row in rows] == [[1.0], [2.0, 3.0]]


def test_health_is_open(server: Server) -> None:
    """`Health` needs no token, everything else does."""
    assert server.python.Health(pb.HealthRequest()).status == "ok"
    request = pb.EvaluateRequest(expression="1")
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        code, info, _ = failed(server.python.Evaluate, request, metadata=metadata)
        assert (code, info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
    code, _, _ = failed(server.python.Evaluate, request, metadata=(("authorization", TOKEN),))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_user_errors_have_rich_details(server: Server) -> None:
    """An error of user code is UNKNOWN, with code, type and traceback in its details."""
    code, info, debug = failed(evaluate, server, "1 / 0")
    assert code == grpc.StatusCode.UNKNOWN
    assert (info.reason, info.metadata["errorType"], info.metadata["stateLost"]) == (
        "user_error",
        "ZeroDivisionError",
        "false",
    )
    assert "1 / 0" in debug.detail


def test_a_long_traceback_arrives_cut(server: Server) -> None:
    """A traceback that metadata has no room for loses its beginning, and the call still answers."""
    code = "def f(n):\n    if n: f(n - 1)\n    else: raise ValueError('x' * 100_000)\n    return 'padding' * 3\nf(50)"
    status, info, debug = failed(evaluate, server, code)
    assert (status, info.reason) == (grpc.StatusCode.UNKNOWN, "user_error")
    assert debug.detail.startswith("…")


def test_execute_streams_to_the_output(server: Server) -> None:
    """`Execute` ends with the whole output, an error of the code included."""
    events = list(server.python.Execute(pb.ExecuteRequest(code="print('a')\n1 / 0"), metadata=METADATA))
    output = events[-1].output
    assert output.stdout == "a\n"
    assert output.error.error_type == "ZeroDivisionError"
    assert all(event.WhichOneof("event") != "output" for event in events[:-1])


@pytest.mark.slow
def test_the_deadline_is_the_calls(server: Server) -> None:
    """A call past its deadline is interrupted, its client is told what became of the state, and the state is there."""
    evaluate(server, "stays = 7")
    for timeout in (1.0, 4.0, 16.0, 64.0):  # on a busy machine gRPC itself may end the call before the answer is there
        with pytest.raises(grpc.RpcError) as caught:
            evaluate(server, SLEEP, timeout=timeout)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        if rpc_status.from_call(caught.value) is not None:
            break
    info = ErrorInfo()
    rpc_status.from_call(caught.value).details[0].Unpack(info)
    assert info.reason == "timeout"
    assert info.metadata["stateLost"] == "false"
    assert evaluate(server, "stays").value_json == "7"


def test_cancelling_cancels_in_the_worker(server: Server) -> None:
    """A call that the client cancels ends in the session, and its state stays."""
    evaluate(server, "stays = 8")
    call = server.python.Evaluate.future(pb.EvaluateRequest(expression=SLEEP), metadata=METADATA)
    until(lambda: busy(server), "the call does not run")
    call.cancel()
    until(lambda: not busy(server), "the call still runs")
    assert evaluate(server, "stays").value_json == "8"


def test_cancelling_an_execution(server: Server) -> None:
    """A stream of output that is cancelled ends its code."""
    stream = server.python.Execute(pb.ExecuteRequest(code=SLEEP), metadata=METADATA)
    until(lambda: busy(server), "the code does not run")
    stream.cancel()
    until(lambda: not busy(server), "the code still runs")


def test_sessions_are_named_in_metadata(server: Server) -> None:
    """`x-venvd-session` and `x-venvd-values` choose session and value mode."""
    limits = session_pb.SessionLimits(handles=5)
    request = session_pb.CreateSessionRequest(limits=limits, env={"GREETING": "hi"})
    made = server.sessions.CreateSession(request, metadata=METADATA).session
    assert made.limits.handles == 5
    inside = (*METADATA, ("x-venvd-session", made.id), ("x-venvd-values", "tagged"))
    result = evaluate(server, "import os; (os.environ['GREETING'],)", metadata=inside)
    assert json.loads(result.value_json) == {"$tuple": ["hi"]}
    listed = server.sessions.ListSessions(session_pb.ListSessionsRequest(), metadata=METADATA).sessions
    assert {"default", made.id} <= {session.id for session in listed}
    assert server.sessions.DeleteSession(session_pb.DeleteSessionRequest(id=made.id), metadata=METADATA).success
    assert failed(evaluate, server, "1", metadata=inside)[0] == grpc.StatusCode.NOT_FOUND


def test_a_server_without_a_controller(server: Server) -> None:
    """The methods for venvs are UNAVAILABLE where the server knows no controller."""
    venvs = venv_service_pb2_grpc.VenvServiceStub(server.channel)
    code, info, _ = failed(venvs.ListEnvironments, venv_pb.ListEnvironmentsRequest(), metadata=METADATA)
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "unavailable")


@pytest.mark.slow
def test_a_message_over_the_limit(start: Start) -> None:
    """A message that is too large is refused, by size or by payload, and the next call is answered."""
    with start(VENVD_MAX_BODY="65536") as small:
        for size in (65536, 1 << 20):
            with pytest.raises(grpc.RpcError) as caught:
                evaluate(small, "x" * size)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert small.python.Health(pb.HealthRequest()).status == "ok"


def test_what_is_no_message(server: Server) -> None:
    """Bytes that are no message end their call only."""
    call = server.channel.unary_unary("/venvd.v1.PythonService/Evaluate")
    with pytest.raises(grpc.RpcError):
        call(b"\xff" * 100, metadata=METADATA)
    assert evaluate(server, "1").value_json == "1"


# ---- the Session stream ----------------------------------------------------------------------------------------


class Stream:
    """A Session stream that is written as one likes."""

    def __init__(self, server: Server, metadata: Any = METADATA) -> None:
        self._requests: queue.Queue[pb.SessionRequest | None] = queue.Queue()
        self.replies: Iterator[pb.SessionResponse] = server.python.Session(
            iter(self._requests.get, None), metadata=metadata, timeout=60
        )

    def send(self, number: int, command: str, payload: Any = None, **fields: Any) -> None:
        text = None if payload is None else json.dumps(payload)
        self._requests.put(pb.SessionRequest(id=number, command=command, payload_json=text, **fields))

    def end(self) -> list[pb.SessionResponse]:
        self._requests.put(None)
        return list(self.replies)


def test_calls_on_a_stream(server: Server) -> None:
    """Calls on a stream are answered under their ID, errors without an end to it."""
    stream = Stream(server)
    stream.send(1, "eval", {"expression": "1 + 1"})
    assert json.loads(next(stream.replies).result_json) == {"value": 2}
    stream.send(2, "eval", {"expression": "1 / 0"})
    error = next(stream.replies).error
    assert (error.code, error.error_type) == ("user_error", "ZeroDivisionError")
    assert "1 / 0" in error.traceback
    stream.send(3, "nonsense")
    stream.send(4, "ping")
    replies = {reply.id: reply for reply in stream.end()}
    assert replies[3].error.code == "invalid_request"
    assert json.loads(replies[4].result_json) == {"status": "ok"}


def test_a_stream_overtakes(server: Server) -> None:
    """Other calls are answered while one runs, and `session.interrupt` ends it."""
    stream = Stream(server)
    stream.send(1, "eval", {"expression": SLEEP})
    until(lambda: busy(server), "the call does not run")
    stream.send(2, "ping")
    assert next(stream.replies).id == 2
    stream.send(3, "session.interrupt", {"id": "default"})
    replies = {reply.id: reply for reply in stream.end()}
    assert replies[1].error.code == "cancelled"


def test_a_request_of_a_stream_is_cancelled(server: Server) -> None:
    """`cancel` takes the ID of a request of the same stream, as number or text."""
    for identity in (1, "1"):
        stream = Stream(server)
        stream.send(1, "eval", {"expression": SLEEP})
        until(lambda: busy(server), "the call does not run")
        stream.send(2, "cancel", {"id": identity})
        replies = {reply.id: reply for reply in stream.end()}
        assert replies[1].error.code == "cancelled"
        assert json.loads(replies[2].result_json) == {"success": True}


def test_the_end_of_a_stream_waits_for_its_calls(server: Server) -> None:
    """A client that has ended its requests still gets every reply."""
    stream = Stream(server)
    for number in range(50):
        stream.send(number, "eval", {"expression": str(number)})
    assert sorted(reply.id for reply in stream.end()) == list(range(50))


def test_a_cancelled_stream_cancels_its_calls(server: Server) -> None:
    """A stream that the client cancels ends what ran on it."""
    stream = Stream(server)
    stream.send(1, "eval", {"expression": SLEEP})
    until(lambda: busy(server), "the call does not run")
    stream.replies.cancel()  # type: ignore[attr-defined]
    until(lambda: not busy(server), "the call still runs")


@pytest.mark.slow
def test_calls_outlive_a_stream_where_that_is_wanted(start: Start, tmp_path: Path) -> None:
    """Without `cancel_on_disconnect` a call goes on when the client cancels its stream, and its reply is dropped."""
    with start(worker=True, VENVD_CANCEL_ON_DISCONNECT="false") as server:
        go = tmp_path / "go"
        stream = Stream(server)
        code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nstays = 9\nprint(stays)"
        stream.send(1, "exec", {"code": code}, stream=True)
        until(lambda: busy(server), "the call does not run")
        stream.replies.cancel()  # type: ignore[attr-defined]
        go.touch()
        until(lambda: not busy(server), "the call does not end")
        assert evaluate(server, "stays").value_json == "9"


def test_options_on_a_stream(server: Server) -> None:
    """Value mode comes from the metadata or the request, a timeout from the request."""
    stream = Stream(server, (*METADATA, ("x-venvd-values", "tagged")))
    stream.send(1, "eval", {"expression": "(1,)"})
    assert json.loads(next(stream.replies).result_json) == {"value": {"$tuple": [1]}}
    stream.send(2, "eval", {"expression": "(1,)"}, values="plain")
    assert json.loads(next(stream.replies).result_json) == {"value": [1]}
    stream.send(3, "eval", {"expression": SLEEP}, timeout=0.2)
    assert next(stream.replies).error.code == "timeout"
    stream.send(4, "eval", {"expression": "1"}, session="nobody")
    assert next(stream.replies).error.code == "not_found"


def test_a_stream_with_what_is_no_message(server: Server) -> None:
    """Bytes that are no message end their stream only."""
    call = server.channel.stream_stream("/venvd.v1.PythonService/Session")
    with pytest.raises(grpc.RpcError):
        list(call(iter([b"\xff" * 100]), metadata=METADATA, timeout=60))
    assert evaluate(server, "1").value_json == "1"


def test_a_stream_needs_the_token(server: Server) -> None:
    """Without the token a stream is refused as a whole."""
    assert failed(lambda: Stream(server, ()).end())[0] == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.slow
def test_a_stream_that_is_not_read(start: Start) -> None:
    """A client that leaves its replies unread is ended at a limit, and others are served."""
    with start(worker=True, VENVD_MAX_UNREAD_BYTES="1000000") as server:
        stream = Stream(server)
        for number in range(40):
            stream.send(number, "eval", {"expression": "'x' * 1_000_000"})
        default = session_pb.GetSessionRequest(id="default")
        until(lambda: server.sessions.GetSession(default, metadata=METADATA).session.calls >= 20, "nothing is answered")
        until(lambda: not busy(server), "the calls go on")
        assert failed(lambda: stream.replies)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert evaluate(server, "1").value_json == "1"


# ---- the end ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sigterm_lets_running_calls_end(start: Start, tmp_path: Path) -> None:
    """Asked to end, the server answers what runs, and ends."""
    with start(worker=True, VENVD_GRACE="20") as server:
        go = tmp_path / "go"
        code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n'done'"
        call = server.python.Evaluate.future(pb.EvaluateRequest(expression=code), metadata=METADATA)
        until(lambda: busy(server), "the call does not run")
        server.process.send_signal(signal.SIGTERM)
        go.touch()
        assert call.result(60).value_json == '"done"'
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_a_stream_without_calls_does_not_delay_the_end(start: Start) -> None:
    """A client that keeps a stream learns that the server ends, which does not wait for `drain`."""
    with start(VENVD_DRAIN="600") as server:
        stream = Stream(server)
        stream.send(1, "ping", {})
        assert next(stream.replies).id == 1
        server.process.send_signal(signal.SIGTERM)
        code, info, _ = failed(lambda: stream.replies)
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "unavailable")
        assert server.process.wait(60) == 0
