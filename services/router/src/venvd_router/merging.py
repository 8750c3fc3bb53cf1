"""Makes one answer out of the answers of all replicas."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from venvd_contract.errors import VenvdError

Whole = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body."""


class _Dated(msgspec.Struct):
    createdAt: str = ""  # noqa: N815 — a name on the wire


_lists = msgspec.json.Decoder(dict[str, list[msgspec.Raw]])
_dated = msgspec.json.Decoder(_Dated)
_encode = msgspec.json.Encoder().encode


def join_lists(bodies: Sequence[bytes]) -> bytes:
    """Join objects that contain lists, such as `{"sessions": […]}`. The oldest items come first."""
    joined: dict[str, list[msgspec.Raw]] = {}
    for body in bodies:
        for name, items in _lists.decode(body).items():
            joined.setdefault(name, []).extend(items)
    for items in joined.values():
        items.sort(key=lambda item: _dated.decode(item).createdAt)
    return _encode(joined)


def merge_lists(answers: Sequence[Whole | VenvdError]) -> Whole:
    """Merge the lists of all replicas that answer.

    Raises:
        VenvdError: no replica answered.
    """
    whole = _drop_errors(answers)
    refused = next((each for each in whole if each[0] != 200), None)
    if refused is not None:
        return refused
    body = join_lists([each[2] for each in whole])
    headers = [header for header in whole[0][1] if header[0] != b"content-length"]
    return 200, [*headers, (b"content-length", b"%d" % len(body))], body


def choose_answer(answers: Sequence[Whole | VenvdError]) -> Whole:
    """Choose the answer of the replica that knows a call: a success, else an answer other than 404.

    Raises:
        VenvdError: no replica that answers knows the call, and another replica does not answer.
    """
    whole = [each for each in answers if not isinstance(each, VenvdError)]
    known = sorted((each for each in whole if each[0] != 404), key=lambda each: each[0] >= 300)
    if known:
        return known[0]
    error = next((each for each in answers if isinstance(each, VenvdError)), None)
    if error is not None:
        raise error
    return whole[0]


def _drop_errors(answers: Sequence[Whole | VenvdError]) -> list[Whole]:
    whole = [each for each in answers if not isinstance(each, VenvdError)]
    if not whole:
        raise next(each for each in answers if isinstance(each, VenvdError))
    return whole
