"""Objects that live in a session, for asyncio: as in `venvd.remote`, with `await` before what asks the session."""
# ruff: noqa: SLF001 - a proxy's own members are named so that they hide none of its object's

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from types import TracebackType
from typing import Any, NoReturn

from venvd import operators
from venvd.flow import drive_async
from venvd.operators import Operators, iteration
from venvd.remote import exit_call, type_name
from venvd.scope import Scope


class AsyncRemoteObject(Operators):
    """A proxy for asyncio.

    `await a.shape` is an attribute, `await a.sum()` a call, `await a[2:5]` an item, `await (a + 1)` an operator;
    `async for` and `async with` iterate and enter. `len`, `str` and the like cannot await: call them in the session, as
    in `builtins = await b.import_module("builtins"); await builtins.len(a)`. Attributes are set with `b.setattr`.
    """

    __slots__ = ("__weakref__", "_venvd_id", "_venvd_scope", "_venvd_type")

    def __init__(self, scope: Scope, handle: str, type_name: str) -> None:
        self._venvd_scope = scope
        self._venvd_id = handle
        self._venvd_type = type_name

    def _venvd_run(self, call: Any) -> Coroutine[Any, Any, Any]:
        run: Coroutine[Any, Any, Any] = self._venvd_scope.backend.run_call(call)  # type: ignore[attr-defined]
        return run

    def _venvd_evaluate(self, expression: str, *values: Any) -> Coroutine[Any, Any, Any]:
        return self._venvd_run(self._venvd_scope.eval(expression, operators.operands(values)))

    def __getattr__(self, name: str) -> AsyncAttribute:
        if name.startswith("__array"):
            raise AttributeError(name)
        return AsyncAttribute(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._venvd_run(self._venvd_scope.call(self, "__call__", args, kwargs))

    def __repr__(self) -> str:
        return f"<{self._venvd_type} in a session of {self._venvd_scope.backend!r}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a proxy cannot be pickled: its object lives in a session")

    async def __aiter__(self) -> AsyncIterator[Any]:
        items = await drive_async(iteration(self._venvd_scope, self, type_name), self._venvd_run)
        while not items.done:
            for item in await drive_async(items.batch(), self._venvd_run):
                yield item

    async def __aenter__(self) -> Any:
        return await self._venvd_evaluate(operators.ENTER, self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        expression, values = exit_call(error)
        return bool(await self._venvd_evaluate(expression, self, *values))


class AsyncAttribute(Awaitable[Any]):
    """An attribute not yet asked for: awaiting it gets it, calling it calls it, in one round trip either way."""

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

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        owner = await self._resolved()
        if not isinstance(owner, AsyncRemoteObject):
            return getattr(owner, self._name)(*args, **kwargs)
        return await owner._venvd_run(owner._venvd_scope.call(owner, self._name, args, kwargs))

    async def _get(self) -> Any:
        owner = await self._resolved()
        if not isinstance(owner, AsyncRemoteObject):
            return getattr(owner, self._name)
        return await owner._venvd_run(owner._venvd_scope.getattr(owner, self._name))

    async def _resolved(self) -> Any:
        return await self._owner if isinstance(self._owner, AsyncAttribute) else self._owner
