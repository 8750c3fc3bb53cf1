"""Doubles of the three .NET clients of the old host: they send the same bytes and decode as these clients do.

Each method is one method of the clients' interface. On an exception it writes to the client's log and returns
`default(T)`, so a program that uses it never sees the error.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from compat.dotnet.errors import DotNetError, InvalidCastError, InvalidOperationError, JsonError
from compat.dotnet.http_client import HttpClient
from compat.dotnet.pipes import NamedPipe
from compat.dotnet.reading import parse
from compat.dotnet.types import BOOLEAN, HANDLE, OBJECT, SINGLE, STRING, Type, array, record
from compat.dotnet.writing import Options, Properties, write

FLOATS = array(SINGLE)
FLOAT_ROWS = array(FLOATS)


@dataclass(frozen=True)
class ModuleHandle:
    handle_id: str
    module_name: str

    def properties(self) -> Properties:
        return Properties(HandleId=self.handle_id, ModuleName=self.module_name)


@dataclass(frozen=True)
class ObjectHandle:
    handle_id: str
    type_name: str

    def properties(self) -> Properties:
        return Properties(HandleId=self.handle_id, TypeName=self.type_name, IsValid=True)


class Client(ABC):
    """What the three clients have in common: the operations, and what becomes of exceptions."""

    options: ClassVar[Options]

    def __init__(self) -> None:
        self.log: list[str] = []

    @abstractmethod
    def initialize(self) -> bool:
        """Connect and see whether the server answers."""

    @abstractmethod
    def close(self) -> None: ...

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many connections the client has opened."""

    @abstractmethod
    def _ask(self, operation: str, request: Properties, answer: Type) -> Any:
        """Send one request; the answer, decoded."""

    def _return_type(self, kind: Type) -> str:
        return kind.name

    def _attempt(self, default: Any, what: str, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except DotNetError as error:
            self.log.append(f"{what}: {type(error).__name__}: {error}")
            return default

    def _record(self, name: str, /, **properties: Type) -> Type:
        return record(name, **{self.options.name(name): kind for name, kind in properties.items()})

    def _field(self, answer: dict[str, Any] | None, name: str, default: Any = None) -> Any:
        return default if answer is None else answer[self.options.name(name)]

    def import_module(self, name: str) -> ModuleHandle | None:
        def run() -> ModuleHandle | None:
            kind = self._record("ImportModuleResponse", HandleId=STRING)
            answer = self._ask("import", Properties(ModuleName=name), kind)
            handle_id = self._field(answer, "HandleId")
            return None if handle_id is None else ModuleHandle(handle_id, name)

        module: ModuleHandle | None = self._attempt(None, f"failed to import module: {name}", run)
        return module

    def create_object(
        self,
        module: ModuleHandle | str,
        class_name: str,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> ObjectHandle | None:
        if isinstance(module, str):
            imported = self.import_module(module)
            return None if imported is None else self.create_object(imported, class_name, args, kwargs)
        request = Properties(ModuleHandleId=module.handle_id, ClassName=class_name, Args=args, Kwargs=kwargs)
        run = lambda: self._handle(self._ask("create", request, self._created()), class_name)  # noqa: E731
        instance: ObjectHandle | None = self._attempt(None, f"failed to create object: {class_name}", run)
        return instance

    def call_method(
        self,
        kind: Type,
        handle: ObjectHandle | ModuleHandle,
        method: str,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        def run() -> Any:
            request = Properties(
                HandleId=handle.handle_id,
                MethodName=method,
                Args=args,
                Kwargs=kwargs,
                ReturnType=self._return_type(kind),
            )
            response = self._record(
                "CallMethodResponse`1", Value=kind, IsHandle=BOOLEAN, HandleId=STRING, TypeName=STRING
            )
            answer = self._ask("call", request, response)
            if self._field(answer, "IsHandle") and self._field(answer, "HandleId") is not None:
                if kind is not OBJECT and kind is not HANDLE:
                    raise InvalidCastError(
                        f"unable to cast object of type 'RemoteObjectHandle' to type '{kind.full_name}'"
                    )
                return self._handle(answer, "object")
            return self._field(answer, "Value", kind.default)

        return self._attempt(kind.default, f"failed to call method: {method}", run)

    def call_void(self, handle: ObjectHandle | ModuleHandle, method: str, args: list[Any] | None = None) -> None:
        """CallMethodAsync without a type, which is the one of `object`."""
        self.call_method(OBJECT, handle, method, args)

    def get_attribute(self, kind: Type, handle: ObjectHandle | ModuleHandle, name: str) -> Any:
        request = Properties(HandleId=handle.handle_id, AttributeName=name, ReturnType=self._return_type(kind))
        return self._value(kind, "getattr", request, f"failed to get attribute: {name}")

    def set_attribute(self, handle: ObjectHandle | ModuleHandle, name: str, value: Any) -> None:
        request = Properties(HandleId=handle.handle_id, AttributeName=name, Value=value)
        self._attempt(None, f"failed to set attribute: {name}", lambda: self._ask("setattr", request, self._nothing()))

    def dispose_handle(self, handle: ObjectHandle | ModuleHandle) -> None:
        request = Properties(HandleId=handle.handle_id)
        self._attempt(None, "failed to dispose handle", lambda: self._ask("dispose", request, self._nothing()))

    def evaluate(self, kind: Type, expression: str, local: dict[str, Any] | None = None) -> Any:
        request = Properties(Expression=expression, Locals=local, ReturnType=self._return_type(kind))
        return self._value(kind, "eval", request, "failed to evaluate expression")

    def to_float_array(self, handle: ObjectHandle) -> list[float]:
        return self._floats("tofloatarray", FLOATS, handle)

    def to_float_array_2d(self, handle: ObjectHandle) -> list[list[float]]:
        return self._floats("tofloatarray2d", FLOAT_ROWS, handle)

    def is_module_available(self, name: str) -> bool:
        kind = self._record("ModuleAvailableResponse", Available=BOOLEAN)
        try:
            return bool(
                self._field(self._ask("module_available", Properties(ModuleName=name), kind), "Available", False)
            )
        except DotNetError:
            return False

    def create_object_handle_from_result(self, result: Any) -> ObjectHandle:
        """The one method that throws.

        Raises:
            InvalidOperationError: the answer holds no handle.
        """
        if isinstance(result, ObjectHandle):
            return result
        handle = self._handle(self._ask("wrap", Properties(Value=result), self._created()), "object")
        if handle is None:
            raise InvalidOperationError("failed to create handle from result")
        return handle

    def _value(self, kind: Type, operation: str, request: Properties, what: str) -> Any:
        response = self._record("ValueResponse`1", Value=kind)
        run = lambda: self._field(self._ask(operation, request, response), "Value", kind.default)  # noqa: E731
        return self._attempt(kind.default, what, run)

    def _floats(self, operation: str, kind: Type, handle: ObjectHandle) -> Any:
        request = Properties(HandleId=handle.handle_id)
        return self._attempt([], f"failed: {operation}", lambda: self._ask(operation, request, kind) or [])

    def _created(self) -> Type:
        return self._record("CreateObjectResponse", HandleId=STRING, TypeName=STRING)

    def _nothing(self) -> Type:
        return self._record("EmptyResponse")

    def _handle(self, answer: dict[str, Any] | None, type_name: str) -> ObjectHandle | None:
        handle_id = self._field(answer, "HandleId")
        return None if handle_id is None else ObjectHandle(handle_id, self._field(answer, "TypeName") or type_name)


class OldHttpClient(Client):
    """PythonHostHttp: chunked bodies in camelCase, nulls left out, ten minutes of patience."""

    options = Options(camel_case=True, ignore_null=True)
    DEFAULT = "http://localhost:5678"
    PATHS: ClassVar = {"module_available": "module-available"}

    def __init__(self, service_url: str = DEFAULT, token: str | None = None) -> None:
        super().__init__()
        self.http = HttpClient(service_url, 600, token)

    def initialize(self) -> bool:
        return bool(self._attempt(False, "failed to initialize", lambda: 200 <= self.http.get("/health").status <= 299))

    def close(self) -> None:
        self.http.close()

    @property
    def connections(self) -> int:
        return self.http.opened

    def _ask(self, operation: str, request: Properties, answer: Type) -> Any:
        path = f"/api/{self.PATHS.get(operation, operation)}"
        response = self.http.post_chunked(path, write(request, self.options).encode())
        if operation == "dispose":  # neither the status nor the body is looked at
            return None
        response.ensure_success()
        return None if operation == "setattr" else answer.read(parse(response.json()))


class OldPipeClient(Client):
    """PythonHostPipe: a line of camelCase JSON each way, one call at a time, nulls left out, patient without end."""

    options = Options(camel_case=True, ignore_null=True)
    DEFAULT = "beep-python-pipe"

    def __init__(self, pipe_name: str = DEFAULT, new_line: str = "\n") -> None:
        super().__init__()
        self._name, self._new_line = pipe_name, new_line
        self._pipe: NamedPipe | None = None
        self._lock = threading.Lock()

    def initialize(self) -> bool:
        def run() -> bool:
            self._pipe = NamedPipe(self._name, self._new_line)
            answer = self._ask("ping", Properties(), self._record("PingResponse", Status=STRING))
            return bool(self._field(answer, "Status") == "ok")

        return bool(self._attempt(False, f"failed to connect: {self._name}", run))

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    @property
    def connections(self) -> int:
        return int(self._pipe is not None)

    def _nothing(self) -> Type:
        return OBJECT

    def _ask(self, operation: str, request: Properties, answer: Type) -> Any:
        with self._lock:
            if self._pipe is None:
                raise InvalidOperationError("pipe not connected")
            self._pipe.write_line(write(Properties(Command=operation, Payload=request), self.options))
            line = self._pipe.read_line()
        if not line:
            return None
        reply = record("PipeResponse`1", result=answer, error=STRING).read(parse(line))
        if reply is None:
            return None
        if reply["error"] is not None:
            raise InvalidOperationError(reply["error"])
        return reply["result"]


class OldRpcClient(Client):
    """PythonHostRpc: HTTP/1.1 with a length and PascalCase JSON, nulls written, full names of types, 100 seconds."""

    options = Options()
    DEFAULT = "http://localhost:50051"
    METHODS: ClassVar = {
        "import": "ImportModule",
        "create": "CreateObject",
        "call": "CallMethod",
        "getattr": "GetAttribute",
        "setattr": "SetAttribute",
        "dispose": "DisposeHandle",
        "eval": "Evaluate",
        "tofloatarray": "ToFloatArray",
        "tofloatarray2d": "ToFloatArray2D",
        "module_available": "IsModuleAvailable",
        "wrap": "WrapValue",
    }

    def __init__(self, server_address: str = DEFAULT) -> None:
        super().__init__()
        self.http = HttpClient(server_address, 100)

    def initialize(self) -> bool:
        return bool(self._attempt(False, "failed to connect", lambda: 200 <= self.http.get("/health").status <= 299))

    def close(self) -> None:
        self.http.close()

    @property
    def connections(self) -> int:
        return self.http.opened

    def _return_type(self, kind: Type) -> str:
        return kind.full_name

    def _floats(self, operation: str, kind: Type, handle: ObjectHandle) -> Any:
        response = record("ToFloatArrayResponse", Data=kind)
        request = Properties(HandleId=handle.handle_id)

        def run() -> Any:
            return self._field(self._ask(operation, request, response), "Data") or []

        return self._attempt([], f"failed: {operation}", run)

    def _ask(self, operation: str, request: Properties, answer: Type) -> Any:
        path = f"/rpc/PythonService/{self.METHODS[operation]}"
        response = self.http.post_string(path, write(request, self.options).encode())
        response.ensure_success()
        try:
            text = response.body.decode(response.headers.get_content_charset() or "utf-8", errors="replace")
        except LookupError as error:
            raise JsonError(str(error)) from None
        return answer.read(parse(text.removeprefix("\ufeff")))
