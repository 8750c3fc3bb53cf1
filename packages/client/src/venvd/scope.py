"""One session as a client sees it: builds its calls and decodes their replies, over any transport, sync or async."""
# ruff: noqa: SLF001 - a proxy's own members are named so that they hide none of its object's

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

from venvd.arrays import header_of
from venvd.errors import BadReply, InvalidRequest
from venvd.records import record, records
from venvd.transports.base import Call, Kind
from venvd_contract.arrays import ARROW, Header, table
from venvd_contract.commands import HandleInfo, Output
from venvd_contract.values import Decoder, Encoder, NotPlain

_handles = records(HandleInfo)
_REPEATABLE = frozenset({"ping", "dispose", "module_available", "handles", "array.get", "session.list", "session.get"})


class Held(Protocol):
    """A proxy, as far as its scope needs to know it."""

    @property
    def _venvd_scope(self) -> Scope: ...
    @property
    def _venvd_id(self) -> str: ...


MakeProxy = Callable[["Scope", str, str, "str | None"], Any]


class Scope:
    """The calls of one session of one backend.

    Args:
        backend: what the session belongs to; handles of another are refused.
        session: its name or ID; None is `default`.
        timeout: seconds for calls that name none; None leaves it to the backend.
        lease: seconds for which handles live unless they are used; None is as long as their session.
        make_proxy: makes a proxy of scope, handle, type name and, where it is known, repr.
    """

    def __init__(
        self,
        backend: object,
        session: str | None,
        timeout: float | None,
        make_proxy: MakeProxy,
        lease: float | None = None,
    ) -> None:
        self.backend = backend
        self.session = session
        self.timeout = timeout
        self.lease = lease
        self._make_proxy = make_proxy
        self._encoder = Encoder(tagged=True, fallback=self._handle_of)
        self._decoder = Decoder(lambda handle: make_proxy(self, handle, "object", None))
        decoders: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("eval", "call", "getattr"), self.decoded),
            **dict.fromkeys(("import", "create", "wrap", "array.put"), self._proxy),
            **dict.fromkeys(("tofloatarray", "tofloatarray2d"), self._decoder.decode),
            **dict.fromkeys(("setattr", "dispose"), _nothing),
            "exec": self._output,
            "module_available": lambda result: result["available"] is True,
            "handles": lambda result: _handles(result["handles"]),
            "array.get": header_of,
            "ping": lambda result: result.get("status") == "ok",
        }
        self._kinds: dict[str, Kind[Any]] = {
            command: Kind(command, decode, session, timeout=timeout, lease=lease, repeatable=command in _REPEATABLE)
            for command, decode in decoders.items()
        }

    # ---- values ----

    def encoded(self, value: Any) -> Any:
        """The JSON form of a value or a proxy.

        Raises:
            InvalidRequest: it has none, or belongs to another session.
        """
        try:
            return self._encoder.encode(value)
        except NotPlain as error:
            raise InvalidRequest(
                f"a value of type {error} cannot be sent: plain data and handles of this session can "
                "(None, bool, int, float, complex, str, bytes, list, tuple, dict, set, Decimal, dates and times)"
            ) from None

    def _handle_of(self, value: Any) -> Any:
        held = type(value)
        if not hasattr(held, "_venvd_id"):
            raise NotPlain(held.__name__)
        proxy = cast("Held", value)
        scope = proxy._venvd_scope
        if scope.backend is not self.backend or scope.session != self.session:
            raise InvalidRequest("a handle of another session has no meaning in this one")
        return {"$handle": proxy._venvd_id}

    def decoded(self, result: Any) -> Any:
        """A *result* of the contract: its value, or a proxy."""
        if result.get("isHandle"):
            return self._make_proxy(self, _text(result["handleId"]), _text(result["typeName"]), result.get("repr"))
        value = result.get("value")
        kind = type(value)
        return self._decoder.decode(value) if kind is dict or kind is list else value

    def _proxy(self, result: Any) -> Any:
        return self._make_proxy(self, _text(result["handleId"]), _text(result["typeName"]), None)

    def _output(self, result: Any) -> Output:
        output = record(Output, result)
        if isinstance(output.result, dict):
            # A result inside an output is itself a *result*.
            output.result = self.decoded(output.result)
        return output

    def result_of(self, command: str, result: Any) -> Any:
        """What the caller of `command` gets of its result."""
        return self._kinds[command].decode(result)

    # ---- calls ----

    def ping(self, timeout: float | None = None) -> Call[bool]:
        return Call(self._kinds["ping"], {}, timeout)

    def import_module(self, name: str, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["import"], {"moduleName": name}, timeout)

    def module_available(self, name: str, timeout: float | None = None) -> Call[bool]:
        return Call(self._kinds["module_available"], {"moduleName": name}, timeout)

    def create(
        self, module: Held, name: str, args: Iterable[Any], kwargs: Mapping[str, Any], timeout: float | None = None
    ) -> Call[Any]:
        payload = {"moduleHandleId": self._id(module), "className": name, **self._arguments(args, kwargs)}
        return Call(self._kinds["create"], payload, timeout)

    def call(
        self, target: Held, method: str, args: Iterable[Any], kwargs: Mapping[str, Any], timeout: float | None = None
    ) -> Call[Any]:
        payload = {"handleId": self._id(target), "methodName": method, **self._arguments(args, kwargs)}
        return Call(self._kinds["call"], payload, timeout)

    def getattr(self, target: Held, name: str, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["getattr"], {"handleId": self._id(target), "attributeName": name}, timeout)

    def setattr(self, target: Held, name: str, value: Any, timeout: float | None = None) -> Call[None]:
        payload = {"handleId": self._id(target), "attributeName": name, "value": self.encoded(value)}
        return Call(self._kinds["setattr"], payload, timeout)

    def eval(self, code: str, names: Mapping[str, Any] | None = None, timeout: float | None = None) -> Call[Any]:
        payload: dict[str, Any] = {"expression": code}
        if names:
            payload["locals"] = {name: self.encoded(value) for name, value in names.items()}
        return Call(self._kinds["eval"], payload, timeout)

    def exec(self, code: str, timeout: float | None = None) -> Call[Output]:
        return Call(self._kinds["exec"], {"code": code}, timeout)

    def wrap(self, value: Any, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["wrap"], {"value": self.encoded(value)}, timeout)

    def dispose(self, handles: list[str], timeout: float | None = None) -> Call[None]:
        return Call(self._kinds["dispose"], {"handleIds": handles}, timeout)

    def floats(self, target: Held, timeout: float | None = None) -> Call[list[float]]:
        return Call(self._kinds["tofloatarray"], {"handleId": self._id(target)}, timeout)

    def rows(self, target: Held, timeout: float | None = None) -> Call[list[list[float]]]:
        return Call(self._kinds["tofloatarray2d"], {"handleId": self._id(target)}, timeout)

    def get_array(self, target: Held, timeout: float | None = None) -> Call[Header]:
        return Call(self._kinds["array.get"], {"handleId": self._id(target)}, timeout)

    def put_array(self, header: Header, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["array.put"], header.fields(), timeout)

    def get_table(self, target: Held, timeout: float | None = None) -> Call[Header]:
        return Call(self._kinds["array.get"], {"handleId": self._id(target), "format": ARROW}, timeout)

    def put_table(self, size: int, into: str, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["array.put"], table(size, into).fields(), timeout)

    def handles(self, timeout: float | None = None) -> Call[list[HandleInfo]]:
        return Call(self._kinds["handles"], {}, timeout)

    def _arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"args": [self.encoded(value) for value in args]}
        if kwargs:
            found["kwargs"] = {name: self.encoded(value) for name, value in kwargs.items()}
        return found

    def _id(self, target: Held) -> str:
        if not hasattr(type(target), "_venvd_id"):
            raise InvalidRequest(f"a handle is needed, not a {type(target).__name__}; wrap() puts a value behind one")
        return cast("str", self._handle_of(target)["$handle"])


def _nothing(_: Any) -> None:
    return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadReply(f"a handle should be a string, not {json.dumps(value)[:40]}")
    return value
