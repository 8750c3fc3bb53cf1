"""Cells of notebooks: turns IPython's additions to Python into Python, or into an error that says what to write."""

from __future__ import annotations

import ast
import re
from typing import Any, List, Optional, Tuple

from venvd_worker.session import times

_PACKAGES = "the packages of a session come from its venv: add them to the requirements of the venv"
_ADVICE = {
    "pip": _PACKAGES,
    "conda": _PACKAGES,
    "cd": "write os.chdir(path)",
    "run": "write exec(open(path).read())",
    "env": "write os.environ[name] = value",
    "bash": "write subprocess.run(script, shell=True)",
    "sh": "write subprocess.run(script, shell=True)",
}
_MAGIC = re.compile(r"(\s*)(%%?)([a-zA-Z_]\w*)(.*)")
_TIMED_CELL = re.compile(r"\s*%%time\b(?!it)(.*)")
_OPTIONS = re.compile(r"((?:\s+-\w(?:\s*\d+|\w*))*)(?:\s+(.*))?")
_SHELL = re.compile(r"(\s*)!(.+)")
_HELP = re.compile(r"(\s*)(?:\?\??([\w.]+)|([\w.]+)\?\??)\s*")
_INSTALL = re.compile(r"(?:\S*/)?(?:pip3?|python3? -m pip|conda|uv pip) +install\b")


def take_timer(source: str) -> Tuple[str, bool]:
    """Return the code of a cell without `%%time`, and whether the cell began with `%%time`."""
    if not source.lstrip().startswith("%%time"):
        return source, False
    blank = len(source) - len(source.lstrip())
    first, _, rest = source[blank:].partition("\n")
    timed = _TIMED_CELL.fullmatch(first)
    if timed is None:
        return source, False
    return source[:blank] + timed[1].strip() + "\n" + rest, True


def add_timer(statements: List[Any]) -> List[Any]:
    """Return statements that have the same value and print how long they took."""
    start: Any = ast.parse("{}.start()".format(times.NAME)).body[0]
    stop: Any = ast.parse("{}.stop()".format(times.NAME)).body[0]
    futures = 0
    while futures < len(statements) and getattr(statements[futures], "module", None) == "__future__":
        futures += 1
    body = [*statements[:futures], start, *statements[futures:]]
    if isinstance(body[-1], ast.Expr) and body[-1] is not start:
        stop.value.args.append(body.pop().value)
    return [*body, stop]


def rewrite(source: str, error: SyntaxError) -> Optional[str]:
    """Return the source with the line of the error turned into Python, or None if it is not an addition of IPython.

    Raises:
        SyntaxError: the line has no form in Python; the message says what to write.
    """
    if isinstance(error, IndentationError):
        import textwrap  # noqa: PLC0415 - only code with an error needs it

        text = textwrap.dedent(source)
        if text != source:
            return text
    lines = source.splitlines()
    number = error.lineno or 0
    if not 0 < number <= len(lines):
        return None
    first = source.lstrip().splitlines()[0]
    if first.startswith("%%timeit"):
        return _rewrite_timeit(first[len("%%timeit") :], source.lstrip().partition("\n")[2], error)
    line = _rewrite_line(lines[number - 1], number, error)
    if line == lines[number - 1]:
        return None
    return "\n".join([*lines[: number - 1], line, *lines[number:]])


def _rewrite_line(line: str, number: int, error: SyntaxError) -> str:
    magic = _MAGIC.fullmatch(line)
    if magic is not None and (magic[2] == "%%" or not line[:1].isspace()):
        if magic[3] == "matplotlib":
            return magic[1] + "pass"
        if magic[2] == "%" and magic[3] == "time" and magic[4].strip():
            return _rewrite_time(magic[4].strip())
        if magic[2] == "%" and magic[3] == "timeit" and magic[4].strip():
            return _rewrite_timeit(magic[4], "", error)
        advice = _ADVICE.get(magic[3], "a session runs Python without the magics of IPython")
        raise SyntaxError(
            "{}{} is a magic of IPython: {}".format(magic[2], magic[3], advice), _place(line, number, error)
        )
    shell = _SHELL.fullmatch(line)
    if shell is not None:
        command = shell[2].strip()
        if _INSTALL.match(command):
            raise SyntaxError("!{}: {}".format(command, _PACKAGES), _place(line, number, error))
        return "{}__import__('subprocess').run({!r}, shell=True) and None".format(shell[1], command)
    asked = _HELP.fullmatch(line)
    return line if asked is None else "{}help({})".format(asked[1], asked[2] or asked[3])


def _rewrite_time(statement: str) -> str:
    try:
        ast.parse(statement, mode="eval")
    except SyntaxError:
        return "{0}.start(); {1}; {0}.stop()".format(times.NAME, statement)
    return "({0}.start(), {0}.stop(({1})))[1]".format(times.NAME, statement)


def _rewrite_timeit(arguments: str, body: str, error: SyntaxError) -> str:
    """Return the call for `%timeit [options] statement`, or for a cell of it whose first line is the setup."""
    match = _OPTIONS.fullmatch(arguments.rstrip())
    options, code = (match[1], match[2] or "") if match is not None else ("", arguments.strip())
    try:
        return times.write_repeat(options, body, code) if body else times.write_repeat(options, code)
    except ValueError as problem:
        raise SyntaxError(str(problem), (error.filename, 1, 1, "%timeit" + arguments)) from None


def _place(line: str, number: int, error: SyntaxError) -> Tuple[Optional[str], int, int, str]:
    return error.filename, number, 1, line
