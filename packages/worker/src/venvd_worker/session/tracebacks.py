"""Makes tracebacks that show the user's own frames and lines, and none of ours."""

from __future__ import annotations

from traceback import StackSummary, TracebackException
from typing import Any, List, Set

from venvd_contract.errors import VenvdError
from venvd_worker.session.hints import find_hint

_ROOT = (lambda: None).__code__.co_filename.rpartition("/venvd_worker/")[0]
"""The directory in the file names of our frames. Bytecode of the archive names another one than `__file__`."""
_OWN = (_ROOT + "/venvd_worker/", _ROOT + "/venvd_contract/")
_PSEUDO = ("<eval-", "<exec-")
_LONGEST = 64 * 1024
_LONGEST_MESSAGE = 16 * 1024


def type_name(error: BaseException) -> str:
    return class_name(type(error))


def class_name(kind: Any) -> str:
    name = kind.__name__
    return name if type(name) is str else "object"


def message(error: BaseException) -> str:
    """Return the error's text, or the name of its type if the text is empty or `str` fails."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the user's __str__ may raise anything
        text = ""
    return printable(_shorten(text or type_name(error), _LONGEST_MESSAGE))


def format_traceback(error: BaseException) -> str:
    """Return the traceback with its causes, as Python would print it, without our frames."""
    try:
        summary = TracebackException(type(error), error, error.__traceback__)
        _strip(summary, set())
        hint = find_hint(error)
        text = "".join(summary.format()) + (hint + "\n" if hint else "")
    except Exception:  # noqa: BLE001 - the user's classes take part in this
        text = "{}: {}\n".format(type_name(error), message(error))
    return printable(_shorten(text, _LONGEST))


def is_own(error: BaseException) -> bool:
    """Return whether our code raised the error, not the user's."""
    return isinstance(error, VenvdError)


def printable(text: str) -> str:
    """Return the text with lone surrogates escaped, because UTF-8 cannot encode them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _strip(summary: Any, seen: Set[int]) -> None:
    if summary is None or id(summary) in seen:
        return
    seen.add(id(summary))
    summary.stack = _own_frames(summary.stack)
    for other in (summary.__cause__, summary.__context__, *(getattr(summary, "exceptions", None) or ())):
        _strip(other, seen)


def _own_frames(stack: StackSummary) -> StackSummary:
    """Remove our frames, and the event loop's between ours and the user's first one."""
    kept: List[Any] = [frame for frame in stack if not frame.filename.startswith(_OWN)]
    first = next((index for index, frame in enumerate(kept) if frame.filename.startswith(_PSEUDO)), 0)
    if all("/asyncio/" in frame.filename for frame in kept[:first]):
        kept = kept[first:]
    return StackSummary.from_list(kept)


def _shorten(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return "{}\n[... {} characters left out ...]\n{}".format(
        text[: most // 4], len(text) - most, text[-most * 3 // 4 :]
    )
