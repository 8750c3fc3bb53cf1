"""Proxies of objects that live in a session, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from types import TracebackType
from typing import Any, NoReturn

from venvd import _operators
from venvd._async.iteration import AsyncIteration
from venvd._async.uploads import run_uploading
from venvd._calls import SessionCalls
from venvd._operators import Operators
from venvd._pending import Pending, Unawaited, refuse
from venvd._proxy import make_exit_call
from venvd._remote_classes import show_remote_doc


def _get_doc(proxy: AsyncRemoteObject) -> AsyncAttribute:
    return AsyncAttribute(proxy, "__doc__")


@show_remote_doc(_get_doc)
class AsyncRemoteObject(Unawaited, Operators):
    """A proxy of an object in a session, for asyncio.

    `await a.shape` gets an attribute, `await a.sum()` calls, `await a[2:5]` gets an item, `await (a + 1)` applies an
    operator. `async for` iterates and `async with` enters. `len`, `str` and the like cannot await. Call them in the
    session: `await b.eval("len(a)", a=a)`. Set attributes with `b.setattr`, and ask for the class of an object with
    `await b.isinstance(a, list)`. Code that needs an answer without `await`, such as `if a > 5`, raises a TypeError.
    """

    __slots__ = ("__weakref__", "_venvd_calls", "_venvd_id", "_venvd_type")

    def __init__(self, calls: SessionCalls, handle: str, type_name: str) -> None:
        self._venvd_calls = calls
        self._venvd_id = handle
        self._venvd_type = type_name

    def _venvd_run(self, call: Any) -> Coroutine[Any, Any, Any]:
        backend: Any = self._venvd_calls.backend
        if call.uploads:
            return run_uploading(self._venvd_calls, backend._transport, call)
        run: Coroutine[Any, Any, Any] = backend._run_call(call)
        return run

    def _venvd_evaluate(self, expression: str, *values: Any) -> Coroutine[Any, Any, Any]:
        def start() -> Coroutine[Any, Any, Any]:
            return self._venvd_run(self._venvd_calls.eval(expression, _operators.name_operands(values)))

        return Pending("an operator", start)

    def _venvd_refuse(self, what: str) -> str:
        return f"{what} cannot await what a session answers: {_WAYS_OUT.get(what, _WAY_OUT)}"

    def __getattr__(self, name: str) -> AsyncAttribute:
        if name.startswith("__array"):
            raise AttributeError(name)
        if name == "__signature__":
            raise TypeError(self._venvd_refuse("inspect.signature()"))
        return AsyncAttribute(self, name)

    # Programs await comparisons, so hash() cannot be the object's own.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Any:
        return self._venvd_evaluate(_operators.EQUAL, self, other)

    def __ne__(self, other: object) -> Any:
        return self._venvd_evaluate(_operators.NOT_EQUAL, self, other)

    def __repr__(self) -> str:
        return f"<{self._venvd_type} in a session of {self._venvd_calls.backend!r}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a proxy cannot be pickled: its object lives in a session")

    async def __aiter__(self) -> AsyncIterator[Any]:
        iteration = AsyncIteration(self, self._venvd_run)
        await iteration.begin()
        while not iteration.done:
            for item in await iteration.next_batch():
                yield item

    async def __aenter__(self) -> Any:
        return await self._venvd_evaluate(_operators.ENTER, self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        expression, values = make_exit_call(error)
        return bool(await self._venvd_evaluate(expression, self, *values))


@show_remote_doc(_get_doc)
class AsyncRemoteCallable(AsyncRemoteObject):
    """A proxy of a function, a class or another callable object, for asyncio."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return Pending("a call", lambda: self._venvd_run(self._venvd_calls.call(self, "__call__", args, kwargs)))


_WAY_OUT = "evaluate it in the session, as in `await b.eval('len(p)', p=p)`"
_WAYS_OUT = {
    "bool()": "write `await b.eval('bool(p)', p=p)`, and await attributes, calls and comparisons: `if await p.ok:`",
    "len()": "write `await b.eval('len(p)', p=p)`",
    "iteration": "write `async for item in p`, or `[item async for item in p]` for a list",
    "`in`": "write `await b.eval('x in p', x=x, p=p)`",
    "the assignment of an item": "write `await b.call(p, '__setitem__', key, value)`",
    "`del` of an item": "write `await b.call(p, '__delitem__', key)`",
    "inspect.signature()": "write `await b.signature(p)`",
    "next()": "write `await b.eval('next(p)', p=p)`",
}


class AsyncAttribute(Unawaited, Awaitable[Any]):
    """An attribute that was not fetched yet. `await` fetches it, and a call calls it, each in one round trip."""

    __slots__ = ("_name", "_owner")

    def __init__(self, owner: AsyncRemoteObject | AsyncAttribute, name: str) -> None:
        self._owner = owner
        self._name = name

    def __getattr__(self, name: str) -> AsyncAttribute:
        if name.startswith("__"):
            raise AttributeError(name)
        return AsyncAttribute(self, name)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get().__await__()

    def _venvd_refuse(self, what: str) -> str:
        return f"{what} needs the value of `{self._name}`: await it first, as in `(await p.{self._name})`"

    __eq__ = __ne__ = refuse("a comparison")
    __lt__ = __le__ = __gt__ = __ge__ = refuse("a comparison")
    __hash__ = object.__hash__
    __getitem__ = refuse("an index")

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return Pending(f"{self._name}()", lambda: self._call(args, kwargs))

    async def _call(self, args: Any, kwargs: Any) -> Any:
        owner = await self._resolve_owner()
        if not isinstance(owner, AsyncRemoteObject):
            return getattr(owner, self._name)(*args, **kwargs)
        return await owner._venvd_run(owner._venvd_calls.call(owner, self._name, args, kwargs))

    async def _get(self) -> Any:
        owner = await self._resolve_owner()
        if not isinstance(owner, AsyncRemoteObject):
            return getattr(owner, self._name)
        return await owner._venvd_run(owner._venvd_calls.getattr(owner, self._name))

    async def _resolve_owner(self) -> Any:
        return await self._owner if isinstance(self._owner, AsyncAttribute) else self._owner
