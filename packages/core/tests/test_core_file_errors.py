"""Errors that the file process of a worker host reports."""

from __future__ import annotations

import json

import pytest

from venvd_contract.errors import BY_CODE, Conflict, NotFound
from venvd_core.file_transfer import parse_error


@pytest.mark.parametrize("kind", [Conflict, NotFound])
def test_errors_about_files_arrive(kind: type[Conflict | NotFound]) -> None:
    """The client gets the code and the message."""
    error = parse_error(json.dumps({"code": kind.code, "error": "why"}).encode())
    assert (type(error), error.message) == (kind, "why")


@pytest.mark.parametrize(
    "code", sorted(BY_CODE.keys() - {"conflict", "not_found", "invalid_request", "limit_exceeded"})
)
def test_codes_of_the_server_are_refused(code: str) -> None:
    """User code that forges an error sends no client to another address, and makes no client drop its token."""
    forged = {"code": code, "error": "why", "url": "http://attacker.example:1/"}
    error = parse_error(json.dumps(forged).encode())
    assert error.code == "internal"
    assert "attacker" not in json.dumps(error.fields())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'"text"', b"[" * 100_000])
def test_what_is_no_error_is_internal(data: bytes) -> None:
    """Bytes that are no JSON object are an error of the worker host."""
    assert parse_error(data).code == "internal"
