"""The errors of venvd, a tree of classes. Each class has a code, an HTTP status and a gRPC status.

The tree shows the class, its code and its cause::

    VenvdError
    ├── InvalidRequest        invalid_request     the request is not JSON, has wrong fields or a bad value
    ├── Unauthenticated       unauthenticated     the request has no token, or an unknown one
    ├── Forbidden             forbidden           the token is known, but does not allow the request
    ├── NotFound              not_found           there is no such venv, backend, session or operation
    │   └── HandleNotFound    handle_not_found    the session has no such handle
    ├── Conflict              conflict            a name or port is taken, or the state of the object forbids it
    │   └── InUse             in_use              something uses the object to delete
    ├── TooLarge              too_large           a body, line, message or nesting exceeds its limit
    ├── UserError             user_error          the user's code raised an exception
    ├── LimitExceeded         limit_exceeded      the session reached a limit; the message names it
    ├── Busy                  busy                the session's queue is full
    ├── Cancelled             cancelled           a client interrupted or cancelled the call
    ├── Moved                 moved               another replica has the session; `url` is its address
    ├── SessionLost           session_lost        the session's process ended
    ├── DeadlineExceeded      timeout             the call did not end in time
    ├── Unimplemented         not_implemented     this version or engine lacks the feature
    ├── Unavailable           unavailable         a part of venvd does not answer; try again
    └── Internal              internal            venvd has a defect
"""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Optional, Type

from venvd_contract import exceptions


class VenvdError(Exception):
    """An error that every transport can carry.

    Attributes:
        code: the stable code, the same over every transport.
        message: what is wrong and, if possible, how to correct it.
        error_type: the class name of the exception that user code raised.
        traceback: the formatted traceback of that exception.
        exception: further fields of that exception (`venvd_contract.exceptions`).
        output: what an `exec` printed before the error: `stdout`, `stderr` and `truncated`.
        state_lost: true if the session lost its state.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        error_type: Optional[str] = None,
        traceback: Optional[str] = None,
        exception: Optional[exceptions.Fields] = None,
        state_lost: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_type = error_type
        self.traceback = traceback
        self.exception = exception
        self.output: Any = None
        self.state_lost = state_lost

    def __str__(self) -> str:
        return self.message

    def fields(self) -> Dict[str, Any]:
        """Return the error as fields of a pipe reply. Optional fields without a value are absent."""
        fields: Dict[str, Any] = {"error": self.message, "code": self.code}
        if self.error_type is not None:
            fields["errorType"] = self.error_type
        if self.traceback is not None:
            fields["traceback"] = self.traceback
        if self.exception is not None:
            fields["exception"] = self.exception
        if isinstance(self.output, dict):
            fields["output"] = self.output
        if self.state_lost:
            fields["stateLost"] = True
        return fields

    def problem(self) -> Dict[str, Any]:
        """Return the error as problem details (RFC 9457)."""
        problem: Dict[str, Any] = {
            "type": "about:blank",
            "title": self.code.replace("_", " "),
            "status": self.http_status,
            "detail": self.message,
        }
        fields = self.fields()
        del fields["error"]
        return {**problem, **fields}


class InvalidRequest(VenvdError):
    code = "invalid_request"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"


class Unauthenticated(VenvdError):
    code = "unauthenticated"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class Forbidden(VenvdError):
    code = "forbidden"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class NotFound(VenvdError):
    code = "not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class HandleNotFound(NotFound):
    code = "handle_not_found"


class Conflict(VenvdError):
    code = "conflict"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"


class InUse(Conflict):
    code = "in_use"
    grpc_status = "FAILED_PRECONDITION"


class TooLarge(VenvdError):
    code = "too_large"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class UserError(VenvdError):
    code = "user_error"
    http_status = 422
    grpc_status = "UNKNOWN"


class LimitExceeded(VenvdError):
    code = "limit_exceeded"
    http_status = 422
    grpc_status = "RESOURCE_EXHAUSTED"


class Busy(VenvdError):
    code = "busy"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"


class Cancelled(VenvdError):
    code = "cancelled"
    http_status = 499
    grpc_status = "CANCELLED"


class Moved(VenvdError):
    """The session belongs to another replica of the backend: the client must send the same request there.

    Attributes:
        url: the address of that replica.
    """

    code = "moved"
    http_status = 421
    grpc_status = "FAILED_PRECONDITION"

    def __init__(self, message: str, *, url: str = "", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.url = url

    def fields(self) -> Dict[str, Any]:
        return {**super().fields(), "url": self.url}


class SessionLost(VenvdError):
    code = "session_lost"
    http_status = 410
    grpc_status = "ABORTED"

    def __init__(self, message: str, *, state_lost: bool = True, **fields: Any) -> None:
        super().__init__(message, state_lost=state_lost, **fields)


class DeadlineExceeded(VenvdError):
    code = "timeout"
    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class Unimplemented(VenvdError):
    code = "not_implemented"
    http_status = 501
    grpc_status = "UNIMPLEMENTED"


class Unavailable(VenvdError):
    code = "unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class Internal(VenvdError):
    pass


def _collect(root: Type[VenvdError]) -> Dict[str, Type[VenvdError]]:
    classes = {root.code: root} if root is not VenvdError else {}
    for child in root.__subclasses__():
        classes.update(_collect(child))
    return classes


BY_CODE: Dict[str, Type[VenvdError]] = _collect(VenvdError)
"""The class of each code."""


def from_fields(fields: Dict[str, Any]) -> VenvdError:
    """Make the error from the fields of a pipe reply or of problem details. An unknown code becomes `Internal`.

    The fields may come from a hostile peer: the function ignores fields of the wrong type.
    """

    def text(name: str) -> Optional[str]:
        value = fields.get(name)
        return value if isinstance(value, str) else None

    code = text("code")
    kind = BY_CODE.get(code or "internal", Internal)
    message = text("error") or text("detail") or code or "the peer gave no message"
    state_lost = fields.get("stateLost")
    error = kind(
        message,
        error_type=text("errorType"),
        traceback=text("traceback"),
        exception=exceptions.read(fields.get("exception")),
        **({"state_lost": state_lost} if isinstance(state_lost, bool) else {}),
    )
    error.output = exceptions.read_output(fields.get("output"))
    if isinstance(error, Moved):
        error.url = text("url") or ""
    return error
