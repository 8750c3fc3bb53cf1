"""The gRPC service of the older host, and the setting that switches it off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from venvd_contract import arrays
from venvd_core.backend import Outgoing
from venvd_proto.v1 import python_service_pb2 as pb
from venvd_rpc_backend.compat.http import Methods

from .conftest import METADATA, Server, Start  # type: ignore[import-not-found]

NAME = "beep.python.runtime.PythonService"

Caller = Callable[..., Any]


@pytest.fixture(scope="module")
def old(server: Server) -> Caller:
    """Calls a method of the old service, which reflection describes."""
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    wanted = reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME)
    (file,) = stub.ServerReflectionInfo(iter([wanted]), metadata=METADATA)
    pool = DescriptorPool()
    for data in file.file_descriptor_response.file_descriptor_proto:
        pool.AddSerializedFile(data)
    service = pool.FindServiceByName(NAME)

    def call(method: str, **fields: str) -> Any:
        described = service.methods_by_name[method]
        request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        callable_ = server.channel.unary_unary(f"/{NAME}/{method}", request.SerializeToString, response.FromString)
        return callable_(request(**fields), metadata=METADATA, timeout=60)

    return call


def test_objects(old: Caller) -> None:
    """Objects are made, called, read and freed by handle; a result is plain data or a handle."""
    module = old("ImportModule", module_name="collections")
    counter = old("CreateObject", module_handle_id=module.handle_id, class_name="Counter", args_json='["abca"]')
    assert counter.type_name == "Counter"
    plain = old("CallMethod", handle_id=counter.handle_id, method_name="most_common", args_json="[1]")
    assert (plain.WhichOneof("result"), json.loads(plain.value_json)) == ("value_json", [["a", 2]])
    nothing = old("CallMethod", handle_id=counter.handle_id, method_name="update", kwargs_json='{"b": 5}')
    assert (nothing.WhichOneof("result"), nothing.value_json) == ("value_json", "null")
    made = old("CallMethod", handle_id=counter.handle_id, method_name="elements")
    assert (made.WhichOneof("result"), made.handle.type_name) == ("handle", "chain")
    assert old("SetAttribute", handle_id=counter.handle_id, attribute_name="tag", value_json='{"é": null}').success
    assert json.loads(old("GetAttribute", handle_id=counter.handle_id, attribute_name="tag").value_json) == {"é": None}
    assert old("GetAttribute", handle_id=counter.handle_id, attribute_name="keys").handle.handle_id
    assert old("DisposeHandle", handle_id=counter.handle_id).success
    with pytest.raises(grpc.RpcError) as caught:
        old("GetAttribute", handle_id=counter.handle_id, attribute_name="tag")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_values(server: Server, old: Caller) -> None:
    """Code answers with its value as JSON, and with null for an object, which leaves no handle."""
    assert json.loads(old("Evaluate", expression="a + 1", locals_json='{"a": 41}').value_json) == 42
    assert old("Evaluate", expression="None").value_json == "null"
    before = len(server.python.ListHandles(pb.ListHandlesRequest(), metadata=METADATA).handles)
    assert old("Evaluate", expression="object()").value_json == "null"
    assert len(server.python.ListHandles(pb.ListHandlesRequest(), metadata=METADATA).handles) == before
    assert old("IsModuleAvailable", module_name="json").available
    assert not old("IsModuleAvailable", module_name="no_such_module").available
    assert old("Health").status == "ok"


def test_floats(old: Caller) -> None:
    """Arrays come in single precision: their numbers, or their rows."""
    rows = old("WrapValue", value_json="[[1, 2.5], [3, 4]]")
    assert list(old("ToFloatArray", handle_id=rows.handle_id).data) == [1, 2.5, 3, 4]
    assert [list(row.values) for row in old("ToFloatArray2D", handle_id=rows.handle_id).data] == [[1, 2.5], [3, 4]]


def test_errors(old: Caller) -> None:
    """Errors of user code and of the request are those of every other service."""
    with pytest.raises(grpc.RpcError) as caught:
        old("Evaluate", expression="1 / 0")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, "division by zero")
    with pytest.raises(grpc.RpcError) as caught:
        old("Evaluate", expression="1", locals_json="{")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "locals_json" in caught.value.details()


def test_health_and_the_list_of_services_name_it(server: Server) -> None:
    """The service is SERVING, and reflection lists it."""
    check = health_pb2.HealthCheckRequest(service=NAME)
    assert health_pb2_grpc.HealthStub(server.channel).Check(check).status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    wanted = reflection_pb2.ServerReflectionRequest(list_services="")
    (listed,) = stub.ServerReflectionInfo(iter([wanted]), metadata=METADATA)
    assert NAME in {service.name for service in listed.list_services_response.service}


@pytest.mark.slow
def test_switched_off(start: Start) -> None:
    """Without `compat`, the old service is UNIMPLEMENTED and the old paths are not found; probes answer."""
    with start(VENVD_COMPAT="0") as server:
        with pytest.raises(grpc.RpcError) as caught:
            server.channel.unary_unary(f"/{NAME}/Health")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(service=NAME))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert server.http("POST", "/rpc/PythonService/Health", token=None)[0] == 404
        assert server.http("GET", "/health", token=None)[0] == 200


@pytest.fixture(scope="module")
def open_server(start: Start) -> Iterator[Server]:
    """A server without a token and without a worker."""
    with start(VENVD_TOKEN_SHA256="", VENVD_NO_TOKEN="1") as server:
        yield server


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://evil.example", "127.0.0.1", 403),
        ("null", "127.0.0.1", 403),
        ("http://rebound.example:1", "rebound.example:1", 403),
        ("http://localhost:1", "localhost:1", 503),
        (None, "127.0.0.1", 503),
    ],
)
def test_web_pages_cannot_use_an_open_backend(open_server: Server, origin: str | None, host: str, status: int) -> None:
    """Without a token, requests that a browser sends for a foreign page are refused; others miss the worker."""
    headers = {"Host": host} if origin is None else {"Host": host, "Origin": origin}
    answer = open_server.http("POST", "/rpc/PythonService/Evaluate", {"Expression": "1"}, token=None, **headers)
    assert answer[0] == status, answer


class Released:
    """Notes which segments are given back."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def release(self, name: str, *, reusable: bool) -> None:
        assert reusable
        self.names.append(name)


@pytest.mark.parametrize("cancels", [True, False])
def test_the_memory_of_an_answer_that_comes_too_late_is_released(cancels: bool) -> None:
    """A request that ends at the very moment at which its array comes gives the memory back to the session."""
    segments = Released()
    settings = SimpleNamespace(cancel_on_disconnect=cancels)
    methods: Any = Methods(None, None, None, settings)  # type: ignore[arg-type]

    async def work() -> None:
        coming: asyncio.Future[Outgoing] = asyncio.get_running_loop().create_future()
        request = asyncio.create_task(methods._wait(coming, asyncio.Event().wait))
        coming.add_done_callback(lambda _: request.cancel())
        await asyncio.sleep(0)
        header = arrays.header("<f8", (1,), "C")
        coming.set_result(Outgoing(header, None, SimpleNamespace(name="late"), segments))  # type: ignore[arg-type]
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(work())
    assert segments.names == ["late"]
