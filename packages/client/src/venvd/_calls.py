"""Calls to a backend: their payloads, and how their replies become Python values. Knows no transport."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

from venvd import _operators
from venvd._arrays import parse_header
from venvd._json_dataclasses import from_json, list_decoder
from venvd._objects import NoFormError, ObjectEncoder
from venvd._output import Output
from venvd._transports.base import Call, Kind
from venvd.errors import BadReply, InvalidRequest, error_from_reply
from venvd_contract.arrays import ARROW, Header, table
from venvd_contract.commands import HandleInfo, SessionInfo
from venvd_contract.session_requests import Limits
from venvd_contract.values import Decoder, NotPlain, TaggedEncoder

_decode_handles = list_decoder(HandleInfo)
_decode_sessions = list_decoder(SessionInfo)
_REPEATABLE = frozenset({"ping", "dispose", "module_available", "handles", "array.get", "session.list", "session.get"})


class Proxy(Protocol):
    """The attributes of a proxy that this module needs."""

    @property
    def _venvd_calls(self) -> SessionCalls: ...
    @property
    def _venvd_id(self) -> str: ...


T = TypeVar("T")
MakeProxy = Callable[["SessionCalls", str, str, bool], Any]


class _Uploads(threading.local):
    """The uploads and handles in the values that a thread is encoding."""

    encoder: ObjectEncoder | None = None


class SessionCalls:
    """Builds the calls of one session of one backend, and decodes their replies.

    Args:
        backend: the client that the session belongs to. These calls refuse handles of other clients.
        session: the session's name or ID. None means `default`.
        timeout: seconds for calls that name no timeout. None leaves the timeout to the backend.
        make_proxy: makes a proxy from these calls, a handle, a type name, and whether the object can be called.
        lease: seconds for which an unused handle lives, 0 for as long as its session. None leaves it to the backend.
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
        self._encoder = TaggedEncoder(fallback=self._encode_object)
        self._uploads = _Uploads()
        self._decoder = Decoder(lambda handle: make_proxy(self, handle, "object", True))
        decoders: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("eval", "call", "getattr"), self.decode_result),
            **dict.fromkeys(("import", "create", "wrap", "array.put"), self._decode_proxy),
            **dict.fromkeys(("tofloatarray", "tofloatarray2d"), self._decoder.decode),
            **dict.fromkeys(("setattr", "dispose"), ignore_reply),
            "exec": self._decode_output,
            "module_available": lambda result: result["available"] is True,
            "handles": lambda result: _decode_handles(result["handles"]),
            "array.get": parse_header,
            "ping": lambda result: result.get("status") == "ok",
        }
        self._kinds: dict[str, Kind[Any]] = {
            command: Kind(command, decode, session, timeout=timeout, lease=lease, repeatable=command in _REPEATABLE)
            for command, decode in decoders.items()
        }

    def set_timeout(self, timeout: float | None) -> None:
        """Set the timeout of all later calls that name none."""
        self.timeout = timeout
        for kind in self._kinds.values():
            kind.timeout = timeout

    # ---- values ----

    def encode(self, value: Any) -> Any:
        """Return the JSON form of a value or a proxy.

        Raises:
            InvalidRequest: the value has no JSON form, or is a proxy of another session.
        """
        try:
            return self._encoder.encode(value)
        except NoFormError as error:
            self._uploads.encoder = None
            raise InvalidRequest(str(error)) from None
        except NotPlain as error:
            self._uploads.encoder = None
            raise InvalidRequest(f"a value of type {error} cannot be sent; make it in the session") from None

    def _encode_object(self, value: Any) -> Any:
        if hasattr(type(value), "_venvd_id"):
            return self._encode_handle(value)
        if self._uploads.encoder is None:
            self._uploads.encoder = ObjectEncoder(self._encoder.encode)
        return self._uploads.encoder.encode(value)

    def _with_uploads(self, call: Call[T]) -> Call[T]:
        """Return the call, with the arrays and tables among its values as its uploads."""
        objects, self._uploads.encoder = self._uploads.encoder, None
        if objects is not None:
            call.uploads = objects.uploads
        return call

    def _encode_handle(self, value: Any) -> Any:
        return {"$handle": self._get_handle(value)}

    def decode_result(self, result: Any) -> Any:
        """Return the value of a *result* of the contract, or a proxy if it is a handle."""
        if result.get("isHandle"):
            return self._decode_proxy(result)
        value = result.get("value")
        kind = type(value)
        return self._decoder.decode(value) if kind is dict or kind is list else value

    def _decode_proxy(self, result: Any) -> Any:
        handle, type_name = _check_handle(result["handleId"]), _check_handle(result["typeName"])
        return self._make_proxy(
            self, handle, type_name, result.get("callable") is not False
        )  # older servers say nothing

    def _decode_output(self, result: Any) -> Output:
        output = from_json(Output, result)
        if isinstance(output.result, dict):
            # The result inside an output is a *result* of the contract too.
            output.result = self.decode_result(output.result)
        return output

    def decode_reply(self, command: str, result: Any) -> Any:
        """Return what the caller of `command` gets for a reply."""
        return self._kinds[command].decode(result)

    # ---- calls ----

    def ping(self, timeout: float | None = None) -> Call[bool]:
        return Call(self._kinds["ping"], {}, timeout)

    def import_module(self, name: str, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["import"], {"moduleName": name}, timeout)

    def module_available(self, name: str, timeout: float | None = None) -> Call[bool]:
        return Call(self._kinds["module_available"], {"moduleName": name}, timeout)

    def create(
        self, module: Proxy, name: str, args: Iterable[Any], kwargs: Mapping[str, Any], timeout: float | None = None
    ) -> Call[Any]:
        payload = {
            "moduleHandleId": self._get_handle(module),
            "className": name,
            **self._encode_arguments(args, kwargs),
        }
        return self._with_uploads(Call(self._kinds["create"], payload, timeout))

    def call(
        self,
        target: Proxy,
        method: str,
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
        *,
        proxy: bool = False,
    ) -> Call[Any]:
        encode = self.encode
        payload: dict[str, Any] = {
            "handleId": self._get_handle(target),
            "methodName": method,
            "args": [encode(value) for value in args],
        }
        if kwargs:
            payload["kwargs"] = {name: encode(value) for name, value in kwargs.items()}
        if proxy:
            payload["asHandle"] = True
        call = Call(self._kinds["call"], payload, timeout)
        return call if self._uploads.encoder is None else self._with_uploads(call)

    def getattr(self, target: Proxy, name: str, timeout: float | None = None, *, proxy: bool = False) -> Call[Any]:
        payload: dict[str, Any] = {"handleId": self._get_handle(target), "attributeName": name}
        if proxy:
            payload["asHandle"] = True
        return Call(self._kinds["getattr"], payload, timeout)

    def setattr(self, target: Proxy, name: str, value: Any, timeout: float | None = None) -> Call[None]:
        payload = {"handleId": self._get_handle(target), "attributeName": name, "value": self.encode(value)}
        return self._with_uploads(Call(self._kinds["setattr"], payload, timeout))

    def eval(
        self,
        code: str,
        names: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        proxy: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Call[Any]:
        payload: dict[str, Any] = {"expression": code}
        if proxy:
            payload["asHandle"] = True
        if env:
            payload["env"] = dict(env)
        if not names:
            return Call(self._kinds["eval"], payload, timeout)
        payload["locals"] = {name: self.encode(value) for name, value in names.items()}
        return self._with_uploads(Call(self._kinds["eval"], payload, timeout))

    def ref(self, target: Proxy, place: str, timeout: float | None = None) -> Call[Any]:
        self._get_handle(target)
        return self.eval(_operators.make_place(place), {"_0": target}, timeout, proxy=True)

    def exec(
        self,
        code: str,
        names: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Call[Output]:
        payload: dict[str, Any] = {"code": code}
        if env:
            payload["env"] = dict(env)
        if names:
            payload["locals"] = {name: self.encode(value) for name, value in names.items()}
        return self._with_uploads(Call(self._kinds["exec"], payload, timeout))

    def proxy(self, handle: str, timeout: float | None = None) -> Call[Any]:
        payload = {"expression": "_0", "locals": {"_0": {"$handle": handle}}, "asHandle": True}
        return Call(self._kinds["eval"], payload, timeout)

    def isinstance(self, target: Proxy, kinds: Any, timeout: float | None = None) -> Call[bool]:
        self._get_handle(target)
        names = {"_0": target, "_1": kinds if isinstance(kinds, tuple) else (kinds,)}
        return self.eval(_operators.IS_INSTANCE, names, timeout)

    def signature(self, target: Proxy, timeout: float | None = None) -> Call[Any]:
        self._get_handle(target)
        return self.eval(_operators.SIGNATURE, {"_0": target}, timeout)

    def wrap(self, value: Any, timeout: float | None = None) -> Call[Any]:
        return self._with_uploads(Call(self._kinds["wrap"], {"value": self.encode(value)}, timeout))

    def dispose(self, handles: list[str], timeout: float | None = None) -> Call[None]:
        return Call(self._kinds["dispose"], {"handleIds": handles}, timeout)

    def floats(self, target: Proxy, timeout: float | None = None) -> Call[list[float]]:
        return Call(self._kinds["tofloatarray"], {"handleId": self._get_handle(target)}, timeout)

    def rows(self, target: Proxy, timeout: float | None = None) -> Call[list[list[float]]]:
        return Call(self._kinds["tofloatarray2d"], {"handleId": self._get_handle(target)}, timeout)

    def get_array(self, target: Proxy, timeout: float | None = None) -> Call[Header]:
        return Call(self._kinds["array.get"], {"handleId": self._get_handle(target)}, timeout)

    def put_array(self, header: Header, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["array.put"], header.fields(), timeout)

    def get_table(self, target: Proxy, timeout: float | None = None) -> Call[Header]:
        return Call(self._kinds["array.get"], {"handleId": self._get_handle(target), "format": ARROW}, timeout)

    def put_table(self, size: int, into: str, timeout: float | None = None) -> Call[Any]:
        return Call(self._kinds["array.put"], table(size, into).fields(), timeout)

    def handles(self, timeout: float | None = None) -> Call[list[HandleInfo]]:
        return Call(self._kinds["handles"], {}, timeout)

    def _encode_arguments(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {"args": [self.encode(value) for value in args]}
        if kwargs:
            fields["kwargs"] = {name: self.encode(value) for name, value in kwargs.items()}
        return fields

    def _get_handle(self, target: Proxy) -> str:
        if not hasattr(type(target), "_venvd_id"):
            raise InvalidRequest(f"a handle is needed, not a {type(target).__name__}; wrap() puts a value behind one")
        calls = target._venvd_calls
        if calls is not self and (calls.backend is not self.backend or calls.session != self.session):
            raise InvalidRequest("a handle of another session has no meaning in this one")
        return target._venvd_id


def _check_handle(value: Any) -> str:
    if not isinstance(value, str):
        raise BadReply(f"a handle or type name should be a string, not {json.dumps(value)[:40]}")
    return value


def ignore_reply(_: Any) -> None:
    """Decode a reply that says nothing."""


# ---- calls about sessions ----


def _decode_session(result: Any) -> SessionInfo:
    return from_json(SessionInfo, result)


_CREATE = Kind("session.create", _decode_session)
_LIST = Kind("session.list", lambda result: _decode_sessions(result["sessions"]), repeatable=True)
_GET = Kind("session.get", _decode_session, repeatable=True)
_DELETE = Kind("session.delete", ignore_reply)
_INTERRUPT = Kind("session.interrupt", ignore_reply)
_RESET = Kind("session.reset", _decode_session)


def create_session(
    name: str | None,
    limits: Limits | Mapping[str, Any] | None,
    env: Mapping[str, str] | None,
    idle_timeout: float | None,
    lifetime: float | None = None,
    cwd: str | None = None,
) -> Call[SessionInfo]:
    fields = {
        "name": name,
        "limits": _list_limits(limits) if isinstance(limits, Limits) else limits and dict(limits),
        "env": dict(env) if env is not None else None,
        "idleTimeout": idle_timeout,
        "lifetime": lifetime,
        "cwd": cwd,
    }
    return Call(_CREATE, {key: value for key, value in fields.items() if value is not None})


def _list_limits(limits: Limits) -> dict[str, Any]:
    """Return the limits that are set. The backend has its own defaults for the others."""
    return {name: value for name, value in asdict(limits).items() if value != getattr(Limits, name)}


def list_sessions() -> Call[list[SessionInfo]]:
    return Call(_LIST, {})


def get_session(session: str) -> Call[SessionInfo]:
    return Call(_GET, {"id": session})


def delete_session(session: str) -> Call[None]:
    return Call(_DELETE, {"id": session})


def interrupt_session(session: str) -> Call[None]:
    return Call(_INTERRUPT, {"id": session})


def reset_session(session: str) -> Call[SessionInfo]:
    return Call(_RESET, {"id": session})


def dispose_handles(session: str | None, handles: list[str], timeout: float) -> Call[None]:
    return Call(Kind("dispose", ignore_reply, session, repeatable=True), {"handleIds": handles}, timeout)


def check_output(output: Output, *, check: bool) -> Output:
    """Return the output.

    Raises:
        UserError: `check` is true, and the code raised.
    """
    if check and output.error is not None:
        error = error_from_reply({"code": "user_error", **vars(output.error), "error": output.error.message})
        error.output = output
        raise error
    return output
