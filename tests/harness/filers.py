"""Files as each transport carries them, with nothing of the SDK in it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import grpc

from harness.callers import Caller
from harness.rpc import RpcCaller, plain, snake, told
from harness.stack import Running
from venvd_contract.errors import from_fields
from venvd_proto.v1 import python_service_pb2 as pb
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub

PART = 4 << 20


class Filer(Protocol):
    """Fetches and stores files of one session; what is no UTF-8 in a path stands there as lone surrogates."""

    def get(self, path: str, **part: int) -> bytes: ...

    def put(self, path: str, data: bytes | Iterable[bytes], **fields: Any) -> dict[str, Any]: ...

    def break_off(self, path: str, data: bytes) -> None:
        """Begin to send a file, and go away before its end."""


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def named(path: str) -> dict[str, str]:
    """How a request in JSON names a path."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return {"pathBytes": b64encode(_bytes(path)).decode()}
    return {"path": path}


def _pieces(data: bytes | Iterable[bytes]) -> Iterator[bytes]:
    if not isinstance(data, bytes):
        yield from data
        return
    for start in range(0, max(len(data), 1), PART):
        yield data[start : start + PART]


class HttpFiler:
    def __init__(self, running: Running, session: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=120)
        self._headers = {"Authorization": f"Bearer {running.token}"}
        self._address = urlsplit(running.url)
        self._folder = f"/v1/sessions/{session}/files/"

    def _answer(self, method: str, path: str, body: Any = None, query: Any = ()) -> bytes:
        target = self._folder + quote(_bytes(path), safe="/") + "?" + urlencode(query)
        self._connection.request(method, target, body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 400:
            raise from_fields(json.loads(content))
        if method == "GET":
            assert response.headers["content-type"] == "application/octet-stream"
            assert response.headers["x-content-type-options"] == "nosniff"
        return content

    def get(self, path: str, **part: int) -> bytes:
        return self._answer("GET", path, query=part)

    def put(self, path: str, data: bytes | Iterable[bytes], **fields: Any) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._answer("PUT", path, data, fields))
        return reply

    def break_off(self, path: str, data: bytes) -> None:
        target = self._folder + quote(path)
        head = {"Host": "backend", "Transfer-Encoding": "chunked", **self._headers}
        lines = [f"PUT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        with socket.create_connection((self._address.hostname, self._address.port or 80)) as raw:
            raw.sendall("\r\n".join(lines).encode() + b"%x\r\n%b\r\n" % (len(data), data))

    def close(self) -> None:
        self._connection.close()


class PipeFiler:
    """One attachment a request; a larger file in several."""

    def __init__(self, running: Running, session: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(120)
        self._socket.connect(urlsplit(running.url).path)
        self._reader = self._socket.makefile("rb")
        self._fields = {"session": session, "token": running.token}

    def _ask(self, command: str, payload: Any, *parts: bytes) -> tuple[Any, bytes]:
        line = {"command": command, "payload": payload, "attachments": [len(part) for part in parts], **self._fields}
        self._socket.sendall(json.dumps(line).encode() + b"\n")
        for part in parts:
            self._socket.sendall(part)
        reply = json.loads(self._reader.readline())
        if "error" in reply:
            raise from_fields(reply)
        return reply["result"], b"".join(self._reader.read(size) for size in reply.get("attachments", ()))

    def get(self, path: str, **part: int) -> bytes:
        if part:
            return self._ask("file.get", {**named(path), **part})[1]
        content = bytearray()
        while True:
            info, data = self._ask("file.get", {**named(path), "offset": len(content), "length": PART})
            content += data
            if len(content) >= info["sizeBytes"] or not data:
                return bytes(content)

    def put(self, path: str, data: bytes | Iterable[bytes], **fields: Any) -> dict[str, Any]:
        payload = {**named(path), **fields}
        if isinstance(data, bytes) and len(data) <= PART:
            return dict(self._ask("file.put", payload, data)[0])
        for piece in _pieces(data):
            payload = {"upload": self._ask("file.put", {**payload, "more": True}, piece)[0]["upload"]}
        return dict(self._ask("file.put", payload)[0])

    def break_off(self, path: str, data: bytes) -> None:
        self._ask("file.put", {**named(path), "more": True}, data)
        self.close()

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


class RpcFiler:
    def __init__(self, running: Running, session: str) -> None:
        self._channel = grpc.insecure_channel(urlsplit(running.url).netloc)
        self._stub = PythonServiceStub(self._channel)
        self._metadata = [("authorization", f"Bearer {running.token}"), ("x-venvd-session", session)]

    def get(self, path: str, **part: int) -> bytes:
        request = pb.GetFileRequest(**_fields(path), **part)
        try:
            first, *chunks = self._stub.GetFile(request, metadata=self._metadata, timeout=120)
        except grpc.RpcError as error:
            raise told(error) from None
        assert first.WhichOneof("part") == "info"
        return b"".join(chunk.chunk for chunk in chunks)

    def put(self, path: str, data: bytes | Iterable[bytes], **fields: Any) -> dict[str, Any]:
        def requests() -> Iterator[pb.PutFileRequest]:
            asked = {snake(name): value for name, value in fields.items()}
            yield pb.PutFileRequest(header=pb.FileHeader(**_fields(path), **asked))
            for piece in _pieces(data):
                yield pb.PutFileRequest(chunk=piece)

        try:
            return plain(self._stub.PutFile(requests(), metadata=self._metadata, timeout=120).info)
        except grpc.RpcError as error:
            raise told(error) from None

    def break_off(self, path: str, data: bytes) -> None:
        ended = threading.Event()

        def requests() -> Iterator[pb.PutFileRequest]:
            yield pb.PutFileRequest(header=pb.FileHeader(path=path))
            yield pb.PutFileRequest(chunk=data)
            ended.wait(60)

        call = self._stub.PutFile.future(requests(), metadata=self._metadata)
        time.sleep(0.2)  # so that some of it is there
        call.cancel()
        ended.set()

    def close(self) -> None:
        self._channel.close()


def _fields(path: str) -> dict[str, Any]:
    path_fields = named(path)
    return {"path_bytes": b64decode(path_fields["pathBytes"])} if "pathBytes" in path_fields else dict(path_fields)


def filer(caller: Caller, running: Running, session: str) -> Any:
    """What speaks the transport of a caller."""
    if isinstance(caller, RpcCaller):
        return RpcFiler(running, session)
    return (HttpFiler if running.url.startswith("http") else PipeFiler)(running, session)
