"""The gRPC service of the older host: every method, called with stubs made from a copy of its file."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from harness.stack import Running

pytestmark = pytest.mark.about("everywhere")

SOURCE = Path(__file__).parent / "old_service.proto"
SERVICE = "beep.python.runtime.PythonService"


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The generated modules; their messages live in a pool of their own, beside those of venvd."""
    folder = tmp_path_factory.mktemp("stubs")
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE.parent}", *outputs, str(SOURCE)]
    subprocess.run(command, check=True, timeout=120)
    pool = descriptor_pool.DescriptorPool()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(descriptor_pool, "Default", lambda: pool)
        yield importlib.import_module("old_service_pb2"), importlib.import_module("old_service_pb2_grpc")
    for name in ("old_service_pb2", "old_service_pb2_grpc"):
        sys.modules.pop(name)


@pytest.fixture
def channel(rpc: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(urlsplit(rpc.url).netloc) as opened:
        yield opened


class Old:
    """Calls a method by its name, with the fields of its request."""

    def __init__(self, stubs: tuple[ModuleType, ModuleType], channel: grpc.Channel) -> None:
        self._messages, self._stub = stubs[0], stubs[1].PythonServiceStub(channel)

    def __call__(self, method: str, **fields: str) -> Any:
        request = getattr(self._messages, f"{method}Request")(**fields)
        return getattr(self._stub, method)(request, timeout=60)

    def module(self, name: str) -> str:
        handle_id: str = self("ImportModule", module_name=name).handle_id
        return handle_id


@pytest.fixture
def old(stubs: tuple[ModuleType, ModuleType], channel: grpc.Channel) -> Old:
    return Old(stubs, channel)


def test_it_is_healthy(old: Old) -> None:
    """Health answers `ok`, as the older servers do."""
    assert old("Health").status == "ok"


def test_objects(old: Old) -> None:
    """Objects are created, called, read and disposed, with handles where the result is an object."""
    made = old("CreateObject", module_handle_id=old.module("fractions"), class_name="Fraction", args_json="[6, 8]")
    assert made.type_name == "Fraction"
    read = old("GetAttribute", handle_id=made.handle_id, attribute_name="denominator")
    assert (read.WhichOneof("result"), read.value_json) == ("value_json", "4")
    added = old("CallMethod", handle_id=made.handle_id, method_name="__add__", args_json="[1]", kwargs_json="{}")
    assert added.WhichOneof("result") == "handle"
    assert added.handle.type_name == "Fraction"
    numerator = old("GetAttribute", handle_id=added.handle.handle_id, attribute_name="numerator")
    assert json.loads(numerator.value_json) == 7
    assert old("DisposeHandle", handle_id=made.handle_id).success
    with pytest.raises(grpc.RpcError) as refused:
        old("GetAttribute", handle_id=made.handle_id, attribute_name="denominator")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_attributes(old: Old) -> None:
    """What SetAttribute stores is what GetAttribute reads; an attribute may be a handle."""
    made = old(
        "CreateObject", module_handle_id=old.module("types"), class_name="SimpleNamespace", kwargs_json='{"a": 1}'
    )
    assert old("SetAttribute", handle_id=made.handle_id, attribute_name="b", value_json='{"c": [null, "☃"]}').success
    read = old("GetAttribute", handle_id=made.handle_id, attribute_name="b")
    assert json.loads(read.value_json) == {"c": [None, "☃"]}
    method = old("GetAttribute", handle_id=made.handle_id, attribute_name="__eq__")
    assert method.WhichOneof("result") == "handle"


def test_wrapped_values_and_arrays(old: Old) -> None:
    """A wrapped value is an object, and float arrays of one and two dimensions are read from it."""
    flat = old("WrapValue", value_json="[1, 2.5, 0.5]")
    assert flat.type_name == "list"
    assert list(old("ToFloatArray", handle_id=flat.handle_id).data) == [1.0, 2.5, 0.5]
    rows = old("WrapValue", value_json="[[1, 2], [3, 4]]")
    data = old("ToFloatArray2D", handle_id=rows.handle_id).data
    assert [list(row.values) for row in data] == [[1.0, 2.0], [3.0, 4.0]]


def test_modules_that_are_there(old: Old) -> None:
    """IsModuleAvailable knows what can be imported."""
    assert old("IsModuleAvailable", module_name="json").available is True
    assert old("IsModuleAvailable", module_name="no_such_module").available is False


def test_expressions(old: Old) -> None:
    """Evaluate answers with JSON text, and `null` for an object."""
    assert old("Evaluate", expression="a + 1", locals_json='{"a": 41}').value_json == "42"
    assert old("Evaluate", expression="None").value_json == "null"
    assert old("Evaluate", expression="object()").value_json == "null"
    with pytest.raises(grpc.RpcError) as raised:
        old("Evaluate", expression="1 / 0")
    assert "division by zero" in raised.value.details()


def test_it_is_reflected_and_watched(channel: grpc.Channel) -> None:
    """Reflection lists the service with its twelve methods, and the health service knows it."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    service = descriptor_pool.DescriptorPool(database).FindServiceByName(SERVICE)
    assert len(service.methods) == 12
    status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
    assert status.status == health_pb2.HealthCheckResponse.SERVING
