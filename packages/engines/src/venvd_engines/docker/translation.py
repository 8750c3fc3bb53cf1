"""The one place where the Docker SDK's exceptions become those of the contract."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests
import urllib3

from venvd_contract.errors import Conflict, Internal, NotFound, Unavailable, VenvdError

AWAY = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What the SDK raises where the engine is not there, or goes away in the middle of a call."""

_OF_FILES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of files that may come without a file's name, from a write."""
_NOISE = re.compile(r"^\w*Error\(?|[()'\"]+$")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise the contract's errors for what happens inside; also a decorator.

    Args:
        doing: what was being done, for the message: "start the backend".
    """
    try:
        yield
    except VenvdError:
        raise
    except docker.errors.APIError as error:
        raise _refused(doing, error) from error
    except AWAY as error:
        if _is_files(error):
            raise Unavailable(f"the controller could not {doing} on its own machine: {reason(error)}") from error
        raise Unavailable(f"the Docker Engine does not answer (to {doing}): {reason(error)}") from error


def _is_files(error: Exception) -> bool:
    """Whether a file of this machine is what failed, and not the connection to the engine."""
    wrapped = isinstance(error, (docker.errors.DockerException, requests.RequestException))
    return not wrapped and isinstance(error, OSError) and (error.filename is not None or error.errno in _OF_FILES)


def _refused(doing: str, error: docker.errors.APIError) -> VenvdError:
    said = f"the Docker Engine could not {doing}: {explanation(error)}"
    status = error.status_code
    if status == 404:
        return NotFound(said)
    if status == 409:
        return Conflict(said)
    if status == 403:
        return Unavailable(f"{said} (a proxy in front of the engine may not let this call through)")
    if status is not None and status < 500:
        return Internal(said)
    return Unavailable(said)


def explanation(error: docker.errors.APIError) -> str:
    """What the engine said, without the SDK's words around it."""
    return str(error.explanation or error.response or error).strip()


def reason(error: BaseException) -> str:
    """The first cause that the system gave, else the innermost."""
    found = error
    while not (isinstance(found, OSError) and found.strerror):
        inner = found.__cause__ or found.__context__
        if inner is None:
            break
        found = inner
    if isinstance(found, OSError) and found.strerror:
        return found.strerror + (f": {found.filename}" if found.filename else "")
    return _NOISE.sub("", str(found)) or type(found).__name__
