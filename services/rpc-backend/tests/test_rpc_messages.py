"""Messages of the proto become the contract's JSON, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from venvd_contract.commands import BY_NAME, COMMANDS
from venvd_contract.errors import Internal, InvalidRequest, TooLarge
from venvd_contract.resources import Venv, VenvSpec
from venvd_contract.venvs import PASSED_ON
from venvd_core.calls import Call, Reply, Request
from venvd_proto.v1 import python_service_pb2 as python
from venvd_proto.v1 import session_service_pb2 as sessions
from venvd_proto.v1 import venv_service_pb2 as venvs
from venvd_rpc_backend import messages, stream
from venvd_rpc_backend.methods import COMMAND_NAMES, SERVICES, STREAMING, Method, list_methods

METHODS = {method.command: method for service in SERVICES for method in list_methods(service)}


def method(command: str) -> Method:
    return METHODS[command]


def sent(message: Any) -> Any:
    return json.loads(messages.write_payload(message))


def test_every_command_has_a_method() -> None:
    """What the contract's table names is declared in the proto, and what the proto declares is in the contract."""
    declared = {f"{service.name}/{each.name}" for service in SERVICES for each in service.methods}
    assert declared == set(COMMAND_NAMES) | STREAMING
    assert {command.rpc for command in COMMANDS} <= declared
    assert PASSED_ON | set(BY_NAME) == set(COMMAND_NAMES.values())


@pytest.mark.parametrize(("resource", "message"), [(Venv, venvs.Environment), (VenvSpec, venvs.EnvironmentSpec)])
def test_venvs_have_the_fields_of_the_resources(resource: Any, message: Any) -> None:
    """Each field of a venv and of its specification is a field of the message, and the other way round."""
    assert {messages.to_camel(field.name) for field in message.DESCRIPTOR.fields} == set(resource.__dataclass_fields__)


@pytest.mark.parametrize("command", sorted(BY_NAME))
def test_requests_have_the_fields_of_the_contract(command: str) -> None:
    """Each field of the contract's request is a field of the message, and the other way round."""
    declared = {messages.to_camel(field.name) for field in method(command).request.DESCRIPTOR.fields}
    if command == "file.put":  # parts of a file are requests over the pipe, and messages of one stream here
        declared = {messages.to_camel(field.name) for field in python.FileHeader.DESCRIPTOR.fields} | {"more", "upload"}
    assert declared == set(BY_NAME[command].request.__dataclass_fields__)


def test_json_fields_are_passed_on_as_they_are() -> None:
    """Arguments keep every digit and every tag."""
    message = python.CallMethodRequest(
        handle_id="h", method_name="m", args_json='[12345678901234567890, {"$float": "nan"}]', kwargs_json='{"é": 1.0}'
    )
    assert messages.write_payload(message) == (
        b'{"handleId":"h","methodName":"m","args":[12345678901234567890, {"$float": "nan"}],"kwargs":{"\xc3\xa9": 1.0}}'
    )


def test_what_is_not_set_is_absent() -> None:
    """Fields that are not set are not sent, so that the session names what is missing."""
    assert sent(python.EvaluateRequest()) == {}
    assert sent(python.ImportModuleRequest(module_name="")) == {}


def test_what_is_set_to_nothing_is_there() -> None:
    """An optional field that is set to its default is sent."""
    assert sent(python.ExecuteRequest(code="")) == {"code": ""}
    assert sent(python.EvaluateRequest(expression="", locals_json="{}")) == {"expression": "", "locals": {}}


def test_lists_maps_and_messages_inside() -> None:
    """Repeated fields are arrays, maps and messages objects."""
    assert sent(python.DisposeHandleRequest(handle_ids=["a", "b"])) == {"handleIds": ["a", "b"]}
    request = sessions.CreateSessionRequest(
        name="n", limits=sessions.SessionLimits(memory_bytes=5, handles=0), env={"A": "1"}, idle_timeout=2.5
    )
    assert sent(request) == {
        "name": "n",
        "limits": {"memoryBytes": 5, "handles": 0},
        "env": {"A": "1"},
        "idleTimeout": 2.5,
    }


@pytest.mark.parametrize("text", ["", "[", "1,2", '[],"methodName":"other"', "NaN", '{"a":1}}', "\x00"])
def test_json_fields_must_be_json(text: str) -> None:
    """Text that is no JSON is refused and named, and can slip nothing in beside its field."""
    with pytest.raises(InvalidRequest, match="args_json"):
        messages.write_payload(python.CallMethodRequest(args_json=text))


def test_json_fields_nested_without_end() -> None:
    """A million brackets are too large, not a crash."""
    with pytest.raises(TooLarge, match="value_json"):
        messages.write_payload(python.WrapValueRequest(value_json="[" * 1_000_000))


def test_a_value_comes_as_text() -> None:
    """A plain result holds the value as JSON text; null is a value, and so is one that is no ASCII."""
    made = method("eval").respond(b'{"value":{"a":[1.0,12345678901234567890]}}')
    assert python.EvaluateResponse.FromString(made) == python.EvaluateResponse(
        value_json='{"a":[1.0,12345678901234567890]}'
    )
    assert method("call").respond(b'{"value":null}') == python.CallMethodResponse(value_json="null")
    assert method("getattr").respond('{"value":"☃"}'.encode()) == python.GetAttributeResponse(value_json='"☃"')


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16384, 2**63, 2**64 - 1])
@pytest.mark.parametrize("result", ["1", '"☃"', f'"{"a" * 300}"'])
@pytest.mark.parametrize("attachments", [(), (b"", b"\0" * 200)])
def test_replies_of_the_stream_are_messages(number: int, result: str, attachments: tuple[bytes, ...]) -> None:
    """What is written by hand is what gRPC's own library reads: ID, result, attachments."""
    call = Call(Request("eval"))
    call.end(Reply(result.encode(), attachments))
    made = python.SessionResponse.FromString(stream.write_response(number, call))
    assert made == python.SessionResponse(id=number, result_json=result, attachments=attachments)


def test_a_handle_comes_as_fields() -> None:
    """Another result holds handle, type and repr, and no value."""
    result = b'{"isHandle":true,"handleId":"h","typeName":"Box","repr":"<Box>"}'
    made = method("getattr").respond(result)
    assert made == python.GetAttributeResponse(is_handle=True, handle_id="h", type_name="Box", repr="<Box>")
    assert not made.HasField("value_json")


def test_unknown_fields_and_nulls_are_left_out() -> None:
    """What the proto does not have, or is null, is absent."""
    made = method("import").respond(b'{"handleId":"h","typeName":null,"more":[1]}')
    assert made == python.ImportModuleResponse(handle_id="h")


def test_the_whole_output() -> None:
    """The output of an execution comes with its error, what it showed, and its result."""
    result = {
        "stdout": "o",
        "stderr": "e",
        "display": [{"text/plain": "x"}, {}],
        "result": {"value": 1},
        "error": {"errorType": "E", "message": "m", "traceback": "t"},
        "durationMs": 1.5,
        "truncated": True,
        "executionCount": 4,
        "resultText": "1",
    }
    output = method("exec").respond(json.dumps(result).encode()).output
    assert (output.stdout, output.stderr, output.duration_ms, output.truncated) == ("o", "e", 1.5, True)
    assert (output.execution_count, output.result_text) == (4, "1")
    assert [json.loads(text) for text in output.display_json] == [{"text/plain": "x"}, {}]
    assert json.loads(output.result_json) == {"value": 1}
    assert output.error == python.ExecutionError(error_type="E", message="m", traceback="t")
    assert not method("exec").respond(b'{"error":null}').output.HasField("error")


def test_lists_of_messages() -> None:
    """Handles and sessions are lists of messages."""
    made = method("handles").respond(b'{"handles":[{"handleId":"h","typeName":"T","sizeBytes":3,"ageSeconds":0.5}]}')
    assert made.handles[0] == python.HandleInfo(handle_id="h", type_name="T", size_bytes=3, age_seconds=0.5)
    made = method("session.list").respond(b'{"sessions":[{"id":"a","limits":{"handles":null,"cpuSeconds":2}}]}')
    assert made.sessions[0].limits == sessions.SessionLimits(cpu_seconds=2)


def test_a_session_stands_in_a_field() -> None:
    """What creates, tells or resets a session answers with it."""
    for command in ("session.create", "session.get", "session.reset"):
        assert method(command).respond(b'{"id":"a","state":"idle"}').session.id == "a"


def test_arrays_of_floats() -> None:
    """Numbers come as doubles, those that JSON lacks as what they are."""
    assert method("tofloatarray").respond(b"[1,2.5]").data == [1.0, 2.5]
    special = method("tofloatarray").respond(b'[{"$float":"inf"},{"$float":"nan"},{"$int":"9007199254740993"}]').data
    assert special[0] == float("inf")
    assert special[1] != special[1]
    assert [list(row.data) for row in method("tofloatarray2d").respond(b"[[1,2],[],[3]]").rows] == [
        [1.0, 2.0],
        [],
        [3.0],
    ]


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("import", b"[]"),
        ("import", b'{"handleId":5}'),
        ("import", b'{"handleId":"\xff"}'),
        ("exec", b'{"display":{}}'),
        ("exec", b'{"truncated":"yes"}'),
        ("handles", b'{"handles":[{"sizeBytes":-1}]}'),
        ("handles", b'{"handles":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}"),
        ("tofloatarray", b'{"a":1}'),
        ("tofloatarray", b'["x"]'),
        ("tofloatarray", b"[[1]]"),
        ("tofloatarray2d", b"[1]"),
    ],
)
def test_results_are_not_trusted(command: str, result: bytes) -> None:
    """A result that is not of its command's form is an internal error, whatever it is."""
    with pytest.raises(Internal):
        method(command).respond(result)
