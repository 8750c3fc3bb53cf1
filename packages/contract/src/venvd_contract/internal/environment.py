"""The rules for environment variables of user code: valid names and values.

A venv and a backend declare variables, which the engine passes to the warden as JSON in `WORKER_ENV`. A session may add
more. The server gets neither.
"""

from __future__ import annotations

import re
from typing import Iterable, Mapping

from venvd_contract.errors import InvalidRequest

WORKER_ENV = "VENVD_WORKER_ENV"
RESERVED_PREFIX = "VENVD_"
"""Declared names must not begin with this."""
MOST_DECLARED = 200
LONGEST_DECLARED = 32 * 1024
"""Characters of one declared value."""
LARGEST_OF_SESSION = 32 * 1024
"""Bytes of all names and values that one session adds."""

_DECLARED_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_READ_AT_START = re.compile(
    r"(PYTHON|LD_|MALLOC_|GLIBC_|LC_|LANG|OMP_|GOMP_|KMP_|MKL_|BLIS_|OPENBLAS|GOTO_|NUMEXPR|NUMBA_|VECLIB_)"
    r"|.*_NUM_THREADS$"
)


def check_declared(variables: Mapping[str, str]) -> None:
    """Check the variables that a venv or a backend declares.

    Raises:
        InvalidRequest: there are too many, a name is reserved or invalid, or a value is too long.
    """
    if len(variables) > MOST_DECLARED:
        raise InvalidRequest("env: {} entries exceed the limit of {}".format(len(variables), MOST_DECLARED))
    for name, value in variables.items():
        if not _DECLARED_NAME.fullmatch(name) or name.startswith(RESERVED_PREFIX):
            raise InvalidRequest('env: "{}" cannot name a variable of user code'.format(name[:80]))
        if "\0" in value or len(value) > LONGEST_DECLARED:
            raise InvalidRequest("env.{}: takes at most {} characters, none of them NUL".format(name, LONGEST_DECLARED))


def check_session(variables: Mapping[str, str]) -> None:
    """Check the variables that a session adds.

    Raises:
        InvalidRequest: no process can have a name or value, or all are too long together; the message says which.
    """
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value or not (name + value).isprintable():
            raise InvalidRequest(
                'env: "{}" cannot be a variable: no "=" in the name, no control characters'.format(name[:40])
            )
    if sum(len(name.encode()) + len(value.encode()) for name, value in variables.items()) > LARGEST_OF_SESSION:
        raise InvalidRequest("env: names and values together have more than {} bytes".format(LARGEST_OF_SESSION))


def needs_new_interpreter(names: Iterable[str]) -> bool:
    """Return whether an interpreter or a library reads one of these variables only at its start, before a fork."""
    return any(_READ_AT_START.match(name) for name in names)
