"""Signatures of a session's functions."""

from __future__ import annotations

import ast
from inspect import Parameter, Signature
from typing import Any

from venvd.errors import BadReply

_KINDS = {int(kind): kind for kind in type(Parameter.POSITIONAL_ONLY)}  # type: ignore[attr-defined]


class RemoteText:
    """Stands for an object of the session in a signature."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def make_signature(described: Any) -> Signature:
    """Return a signature from the names, kinds, defaults and annotations that a session sent.

    Raises:
        BadReply: these do not form a signature.
    """
    try:
        parameters, returns = described
        return Signature(
            [
                Parameter(
                    name,
                    _KINDS[kind],
                    default=Parameter.empty if default is None else _parse_default(default),
                    annotation=Parameter.empty if annotation is None else RemoteText(annotation),
                )
                for name, kind, default, annotation in parameters
            ],
            return_annotation=Signature.empty if returns is None else RemoteText(returns),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadReply(f"the session described an invalid signature: {error}") from None


def _parse_default(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return RemoteText(text)
