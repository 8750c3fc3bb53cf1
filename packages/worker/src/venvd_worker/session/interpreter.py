"""Runs the user's code in the session's own `__main__`."""

from __future__ import annotations

import builtins
import marshal
import os
from collections import OrderedDict
from types import FunctionType, ModuleType
from typing import Any, Dict, Tuple

from venvd_worker.session import programs
from venvd_worker.session.programs import Program
from venvd_worker.session.sources import Sources

_MOST_CACHED = 256
_LONGEST_CACHED = 4096

_HEADER = '''\
"""What this session defined, for processes that multiprocessing starts afresh."""
import linecache, marshal
globals().pop("__file__", None)  # so that each such process reads this again

def __venvd_define__(name, source, code):
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    try:
        exec(marshal.loads(code), globals())
    except Exception:
        pass  # what it needs is only there in the session itself

'''


class Definitions:
    """The code that defines names, in the order in which it ran. It keeps at most 16 MB.

    Attributes:
        path: path of the file that `write` brings up to date.
    """

    _MOST_BYTES = 16 << 20

    def __init__(self) -> None:
        self.path = ""
        self._sources: "OrderedDict[str, str]" = OrderedDict()
        self._bytes = 0
        self._changed = True

    def add(self, name: str, source: str) -> None:
        self._bytes += len(source) - len(self._sources.pop(name, ""))
        self._sources[name] = source
        self._changed = True
        while self._bytes > self._MOST_BYTES:
            self._bytes -= len(self._sources.popitem(last=False)[1])

    def write(self) -> str:
        """Bring the file up to date, and return its path."""
        if self._changed:
            with open(self.path + ".new", "w", encoding="utf-8") as file:
                file.write(_HEADER)
                for name, source in self._sources.items():
                    code = marshal.dumps(programs.definitions(source, name))
                    file.write("__venvd_define__({!a}, {!a}, {!r})\n".format(name, source, code))
            os.replace(self.path + ".new", self.path)
            self._changed = False
        return self.path


class Main(ModuleType):
    """The session's `__main__`.

    Pickle finds the user's classes in it. A process that multiprocessing starts afresh runs the file that `__file__`
    names. Each read of that name brings the file up to date. It contains the definitions of this session without its
    other code.
    """

    __slots__ = ("_definitions",)

    def __init__(self, definitions: Definitions) -> None:
        super().__init__("__main__")
        self._definitions = definitions
        self.__dict__["__builtins__"] = builtins

    @property
    def __file__(self) -> str:  # type: ignore[override]
        return self._definitions.write()


class Interpreter:
    """Runs programs in `__main__` and remembers the compiled ones."""

    def __init__(self) -> None:
        self.definitions = Definitions()
        self.main = Main(self.definitions)
        self._namespace: Dict[str, Any] = self.main.__dict__
        self._sources = Sources()
        self._programs: Dict[Tuple[Any, ...], Program] = {}
        self._loop: Any = None

    def run(self, source: str, variables: Dict[str, Any], kind: str) -> Any:
        """Run code, and return the value of the last expression, or None if the last statement is not an expression.

        Args:
            source: any number of statements.
            variables: names that only this run sees.
            kind: `eval` or `exec`, which is part of the name of the code in tracebacks.
        """
        key = (kind, source, *variables) if variables else (kind, source)
        program = self._programs.get(key) or self._program(source, variables, kind)
        if program.plain:
            return eval(program.last, self._namespace)  # type: ignore[arg-type]  # noqa: S307 - what this program is for
        if program.function is not None:
            result = FunctionType(program.function, self._namespace)(*variables.values())
            return self._await(result) if program.awaits else result
        if program.states:
            self.definitions.add(program.name, program.source)
        if program.awaits:
            return self._await(self._run_awaiting(program))
        if program.body is not None:
            exec(program.body, self._namespace)  # noqa: S102
        return None if program.last is None else eval(program.last, self._namespace)  # noqa: S307

    def forget(self) -> None:
        """Forget every program, and number the next ones from the first number."""
        for program in self._programs.values():
            self._sources.forget(program.name)
        self._programs.clear()
        self._sources = Sources()

    async def _run_awaiting(self, program: Program) -> Any:
        """Run both parts in one task, even a part that awaits nothing."""
        result: Any = None
        for code in (program.body, program.last):
            result = None if code is None else eval(code, self._namespace)  # noqa: S307
            if code is not None and programs.is_coroutine(code):
                result = await result
        return result

    def _program(self, source: str, variables: Dict[str, Any], kind: str) -> Program:
        """Compile a program and cache it."""
        name = self._sources.name(kind)
        self._sources.add(name, source, defines=False)  # for the traceback of a syntax error
        program = programs.build(source, name, tuple(variables))
        if program.defines:
            self._sources.add(name, source, defines=True)
        if len(source) <= _LONGEST_CACHED:
            self._programs[(kind, source, *variables)] = program
            if len(self._programs) > _MOST_CACHED:
                self._sources.forget(self._programs.pop(next(iter(self._programs))).name)
        return program

    def _await(self, coroutine: Any) -> Any:
        """Run a coroutine on the session's event loop. The loop stays open between calls."""
        if self._loop is None or self._loop.is_closed():
            import asyncio  # noqa: PLC0415 - not before it is needed: it takes as long as everything else together

            self._loop = asyncio.new_event_loop()
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        finally:
            if not task.done():  # a signal interrupted it
                task.cancel()
                self._loop.run_until_complete(self._settle(task))

    @staticmethod
    async def _settle(task: Any) -> None:
        import asyncio  # noqa: PLC0415

        await asyncio.wait([task])
