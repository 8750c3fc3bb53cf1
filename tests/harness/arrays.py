"""How arrays go over each transport, with nothing of the SDK in it."""

from __future__ import annotations

import io
import json
import mmap
import os
import socket
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

import grpc
import numpy as np

from harness.callers import HttpCaller
from harness.rpc import RpcCaller, told
from venvd_contract.errors import InvalidRequest, from_fields
from venvd_proto.v1 import python_service_pb2 as pb
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub

Array = np.ndarray[Any, Any]


class ArrayCaller(Protocol):
    """Calls operations, and sends and fetches arrays; errors are raised as those of the contract."""

    def __call__(self, command: str, payload: Any = None, **fields: Any) -> Any: ...

    def get(self, handle: str) -> Array: ...

    def put(self, array: Array, **wrong: Any) -> str:
        """The handle; `wrong` are fields of the description that lie."""

    def close(self) -> None: ...


def described(array: Array) -> tuple[dict[str, Any], bytes]:
    """dtype, shape and order of an array, and its bytes in that order."""
    columns = array.flags.f_contiguous and not array.flags.c_contiguous
    fields = {"dtype": array.dtype.str, "shape": list(array.shape), "order": "F" if columns else "C"}
    return fields, array.tobytes("F" if columns else "C")


def made(fields: dict[str, Any], data: Any) -> Array:
    flat = np.frombuffer(bytes(data), dtype=fields["dtype"]) if len(data) else np.empty(0, fields["dtype"])
    return flat.reshape(fields["shape"], order=fields["order"])


class PipeArrays:
    """Arrays as attachments."""

    attached = False

    def __init__(self, url: str, token: str | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(urlsplit(url).path)
        self._bytes = b""
        self.descriptors: list[int] = []
        self._token = token
        if self.attached:
            self("session.attach")

    def __call__(self, command: str, payload: Any = None, **fields: Any) -> Any:
        return self.exchange(command, payload, **fields)[0]["result"]

    def exchange(self, command: str, payload: Any, data: bytes | None = None, **fields: Any) -> tuple[Any, bytes]:
        """The reply, and the bytes behind it."""
        message = {"command": command, "payload": payload, "token": self._token, **fields}
        if data is not None:
            message["attachments"] = [len(data)]
        self._socket.sendall(json.dumps(message).encode() + b"\n" + (data or b""))
        while b"\n" not in self._bytes:
            self._receive()
        line, _, self._bytes = self._bytes.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise from_fields(reply)
        size = sum(reply.get("attachments") or ())
        while len(self._bytes) < size:
            self._receive()
        taken, self._bytes = self._bytes[:size], self._bytes[size:]
        return reply, taken

    def _receive(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 20, 4)
        assert data, "the server closed the connection"
        self._bytes += data
        self.descriptors += descriptors

    def get(self, handle: str) -> Array:
        reply, data = self.exchange("array.get", {"handleId": handle})
        return made(reply["result"], data)

    def put(self, array: Array, **wrong: Any) -> str:
        fields, data = described(array)
        return str(self.exchange("array.put", {**fields, **wrong}, data)[0]["result"]["handleId"])

    def close(self) -> None:
        self._socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


class SharedArrays(PipeArrays):
    """Arrays in memory that both sides map."""

    def __init__(self, url: str, token: str | None) -> None:
        super().__init__(url, token)
        self.maps: dict[str, mmap.mmap] = {}
        self.release: list[str] = []

    def get(self, handle: str) -> Array:
        released, self.release = self.release, []
        reply, data = self.exchange("array.get", {"handleId": handle, "shm": True, "release": released})
        result = reply["result"]
        if result.get("segment") is None:
            return made(result, data)
        size = int(np.dtype(result["dtype"]).itemsize * np.prod(result["shape"], dtype=np.int64))
        array = made(result, self.map(reply)[:size])
        self.release.append(result["segment"])
        return array

    def put(self, array: Array, **wrong: Any) -> str:
        fields, data = described(array)
        reply, _ = self.exchange("array.put", {**fields, "shm": True})
        self.map(reply)[: len(data)] = data
        segment = reply["result"]["segment"]
        return str(self("array.put", {**fields, "segment": segment, **wrong})["handleId"])

    def map(self, reply: dict[str, Any]) -> mmap.mmap:
        """The segment of a reply: its descriptor comes with the first reply that names it."""
        name = reply["result"]["segment"]
        assert (name not in self.maps) == (reply.get("descriptors") == 1) == bool(self.descriptors)
        if name not in self.maps:
            descriptor = self.descriptors.pop()
            self.maps[name] = mmap.mmap(descriptor, reply["result"]["size"])
            os.close(descriptor)
        return self.maps[name]


class AttachedArrays(PipeArrays):
    attached = True


class HttpArrays(HttpCaller):
    """Arrays as `.npy` bodies, which numpy writes and reads."""

    def get(self, handle: str) -> Array:
        status, data = self._asked("GET", f"?handleId={handle}")
        return np.load(io.BytesIO(data), allow_pickle=False) if status == 200 else _raise(data)

    def put(self, array: Array, **wrong: Any) -> str:
        body = io.BytesIO()
        fields, data = described(array)
        fields |= wrong
        order = {"C": False, "F": True}.get(fields["order"], fields["order"])
        header = {"descr": fields["dtype"], "fortran_order": order, "shape": _tuple(fields["shape"])}
        np.lib.format.write_array_header_2_0(body, header)
        status, answer = self._asked("PUT", "", body.getvalue() + data)
        return str(json.loads(answer)["handleId"]) if status == 200 else _raise(answer)

    def _asked(self, method: str, query: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._token}"}
        self._connection.request(method, f"/api/array{query}", body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()


def _tuple(shape: Any) -> Any:
    return tuple(shape) if isinstance(shape, list) else shape


def _raise(data: bytes) -> NoReturn:
    raise from_fields(json.loads(data))


class RpcArrays(RpcCaller):
    """Arrays as messages of the stubs."""

    def get(self, handle: str) -> Array:
        try:
            answers = list(self._python().GetArray(pb.GetArrayRequest(handle_id=handle), metadata=self._metadata()))
        except grpc.RpcError as error:
            raise told(error) from None
        header = answers[0].header
        fields = {"dtype": header.dtype, "shape": list(header.shape), "order": header.order}
        return made(fields, b"".join(answer.chunk for answer in answers[1:]))

    def put(self, array: Array, **wrong: Any) -> str:
        fields, data = described(array)
        size = 100_001  # no round number, and no limit of anybody's
        try:
            parts = [pb.PutArrayRequest(header=pb.ArrayHeader(**{**fields, **wrong}))]
        except ValueError as error:  # what the message cannot even say
            raise InvalidRequest(str(error)) from None
        parts += [pb.PutArrayRequest(chunk=data[at : at + size]) for at in range(0, len(data), size)]
        try:
            return str(self._python().PutArray(iter(parts), metadata=self._metadata()).handle_id)
        except grpc.RpcError as error:
            raise told(error) from None

    def _python(self) -> Any:
        return PythonServiceStub(self._channel)

    def _metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._token}")]


ARRAY_WAYS: dict[str, tuple[str, Any]] = {
    "pipe": ("pipe", PipeArrays),
    "pipe-shm": ("pipe", SharedArrays),
    "attach": ("pipe", AttachedArrays),
    "http": ("http", HttpArrays),
    "rpc": ("rpc", RpcArrays),
}
"""Ways of an array: the type of the backend, and the caller."""
