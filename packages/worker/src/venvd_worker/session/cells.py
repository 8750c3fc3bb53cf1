"""Cells of notebooks: what IPython adds to Python becomes Python, or an error that says what to write."""

from __future__ import annotations

import re
from typing import Optional, Tuple

_PACKAGES = "the packages of a session come from its venv: add them to the requirements of the venv"
_TIMES = "time it in Python: time.perf_counter() before and after, or timeit.timeit(function)"
_ADVICE = {
    "pip": _PACKAGES,
    "conda": _PACKAGES,
    "time": _TIMES,
    "timeit": _TIMES,
    "cd": "write os.chdir(path)",
    "run": "write exec(open(path).read())",
    "env": "write os.environ[name] = value",
    "bash": "write subprocess.run(script, shell=True)",
    "sh": "write subprocess.run(script, shell=True)",
}
_MAGIC = re.compile(r"(\s*)(%%?)([a-zA-Z_]\w*)(.*)")
_SHELL = re.compile(r"(\s*)!(.+)")
_HELP = re.compile(r"(\s*)(?:\?\??([\w.]+)|([\w.]+)\?\??)\s*")
_INSTALL = re.compile(r"(?:\S*/)?(?:pip3?|python3? -m pip|conda|uv pip) +install\b")


def rewrite(source: str, error: SyntaxError) -> Optional[str]:
    """Return the source with Python in the line of the error, or None if that line has nothing that IPython adds.

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
    line = _rewrite_line(lines[number - 1], number, error)
    if line == lines[number - 1]:
        return None
    return "\n".join([*lines[: number - 1], line, *lines[number:]])


def _rewrite_line(line: str, number: int, error: SyntaxError) -> str:
    magic = _MAGIC.fullmatch(line)
    if magic is not None and (magic[2] == "%%" or not line[:1].isspace()):
        if magic[3] == "matplotlib":
            return magic[1] + "pass"
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


def _place(line: str, number: int, error: SyntaxError) -> Tuple[Optional[str], int, int, str]:
    return error.filename, number, 1, line
