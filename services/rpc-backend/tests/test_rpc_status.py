"""Errors as rich statuses."""

from __future__ import annotations

import pytest
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo
from google.rpc.status_pb2 import Status

from venvd_contract.errors import BY_CODE, SessionLost, UserError, VenvdError
from venvd_rpc_backend.status import public_error, status_of


def details(error: VenvdError) -> tuple[ErrorInfo, DebugInfo]:
    made = status_of(error)
    ((key, value),) = made.trailing_metadata
    assert key == "grpc-status-details-bin"
    info, debug = ErrorInfo(), DebugInfo()
    for detail in Status.FromString(value).details:
        detail.Unpack(info) or detail.Unpack(debug)
    return info, debug


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_code_has_its_status(code: str) -> None:
    """Each error of the contract has its gRPC status and carries its code."""
    error = BY_CODE[code]("what was wrong")
    made = status_of(error)
    assert made.code.name == error.grpc_status
    assert made.details == "what was wrong"
    info, _ = details(error)
    assert (info.reason, info.domain) == (code, "venvd")


def test_type_traceback_and_lost_state() -> None:
    """What an error says beside its message is in its details."""
    info, debug = details(UserError("m", error_type="E", traceback="T"))
    assert dict(info.metadata) == {"errorType": "E", "stateLost": "false"}
    assert debug.detail == "T"
    assert details(SessionLost("gone"))[0].metadata["stateLost"] == "true"


@pytest.mark.parametrize("text", ["x", "é", "\U0001f600", "\ud800"])
def test_everything_fits_into_metadata(text: str) -> None:
    """However long an error is, its status stays below the 8 KiB that clients accept, in whole characters."""
    error = UserError(text * 10_000, error_type=text * 10_000, traceback=text * 10_000 + "END")
    made = status_of(error)
    on_the_wire = len(made.trailing_metadata[0][1]) * 4 / 3
    percent_encoded = sum(1 if " " <= letter <= "~" else 3 * len(letter.encode()) for letter in made.details)
    assert on_the_wire + percent_encoded < 8192 - 512
    assert made.details.endswith("…")
    assert details(error)[1].detail.startswith("…")
    assert details(error)[1].detail.endswith("END")


def test_other_exceptions_tell_clients_nothing() -> None:
    """An exception that is none of the contract's becomes `internal`, without what it said."""
    public = public_error(RuntimeError("a secret"))
    assert public.code == "internal"
    assert "secret" not in public.message
