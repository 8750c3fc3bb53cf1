"""Converts the Docker SDK's exceptions to errors of the contract; no other module does."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests
import urllib3

from venvd_contract.errors import Conflict, Internal, InvalidRequest, NotFound, Unavailable, VenvdError

AWAY = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""The SDK's exceptions if the engine is absent or ends a connection early."""

_FILE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of a write. They carry no file name."""
_MISSING = re.compile(r"bind source path does not exist: ([^\n]+)")
_NOISE = re.compile(r"^\w*Error\(?|[()'\"]+$")


@contextmanager
def translate_errors(doing: str) -> Iterator[None]:
    """Raise the contract's errors in place of the SDK's. This is also a decorator.

    Args:
        doing: names the work in the message: "start the backend".
    """
    try:
        yield
    except VenvdError:
        raise
    except docker.errors.APIError as error:
        raise _translate_refusal(doing, error) from error
    except AWAY as error:
        if _is_file_error(error):
            raise Unavailable(f"the controller could not {doing} on its own machine: {find_reason(error)}") from error
        raise Unavailable(f"the Docker Engine does not answer (to {doing}): {find_reason(error)}") from error


def _is_file_error(error: Exception) -> bool:
    """Return whether a file of this machine failed, and not the connection to the engine."""
    wrapped = isinstance(error, (docker.errors.DockerException, requests.RequestException))
    return not wrapped and isinstance(error, OSError) and (error.filename is not None or error.errno in _FILE_ERRORS)


def _translate_refusal(doing: str, error: docker.errors.APIError) -> VenvdError:
    message = f"the Docker Engine could not {doing}: {explain(error)}"
    missing = _MISSING.search(message)
    if missing is not None:
        return InvalidRequest(f"{missing[1]} does not exist on the host of the Docker Engine (to {doing})")
    status = error.status_code
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status == 403:
        return Unavailable(f"{message} (a proxy in front of the engine may refuse this call)")
    if status is not None and status < 500:
        return Internal(message)
    return Unavailable(message)


def explain(error: docker.errors.APIError) -> str:
    """Return the engine's own message, without the SDK's text around it."""
    return str(error.explanation or error.response or error).strip()


def find_reason(error: BaseException) -> str:
    """Return the message of the first system error in a chain of exceptions, else of the innermost exception."""
    cause = error
    while not (isinstance(cause, OSError) and cause.strerror):
        inner = cause.__cause__ or cause.__context__
        if inner is None:
            break
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror + (f": {cause.filename}" if cause.filename else "")
    return _NOISE.sub("", str(cause)) or type(cause).__name__
