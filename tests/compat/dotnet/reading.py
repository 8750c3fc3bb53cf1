"""Text to nodes, as strictly as System.Text.Json reads it.

A node is None, a bool, a str, a `Number`, a list of nodes or `Members`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from compat.dotnet.errors import JsonError

DEPTH = 64
"""JsonSerializerOptions.MaxDepth, which none of the clients changes."""


class Number(str):
    """A number as it stands in the text; the type that reads it decides whether it fits."""

    __slots__ = ()


@dataclass(frozen=True)
class Members:
    """An object: names may stand in it more than once."""

    pairs: list[tuple[str, Any]]


def parse(data: bytes | str) -> Any:
    """The node of a whole text.

    Raises:
        JsonError: no JSON, a token that JSON has not (NaN), bytes that are no UTF-8, or nesting beyond `DEPTH`.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        node = json.loads(
            text,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse,
            object_pairs_hook=lambda pairs: Members(list(pairs)),
        )
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise JsonError(f"invalid JSON: {error}") from None
    if _depth(node) > DEPTH:
        raise JsonError(f"the maximum depth of {DEPTH} has been exceeded")
    return node


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"'{token[0]}' is an invalid start of a value")


def _depth(node: Any) -> int:
    if isinstance(node, Members):
        inner = [part for _, part in node.pairs]
    elif isinstance(node, list):
        inner = node
    else:
        return 0
    return 1 + max((_depth(part) for part in inner if type(part) is list or type(part) is Members), default=0)
