"""Secrets of venvs and backends, with the field names of the wire, hence camelCase.

A value travels in one direction only: clients send it, and no answer contains it. It is a variable, which code reads in
each session, or a header, which the egress broker adds to requests for some hosts. Code never sees a header's value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import List, Optional

from venvd_contract.errors import InvalidRequest
from venvd_contract.internal.environment import RESERVED_PREFIX, needs_new_interpreter

MOST_SECRETS = 100
"""The most secrets of one venv or backend."""
MOST_HOSTS = 20
"""The most hosts of one header."""
LARGEST_VARIABLES = 32 << 10
"""Bytes of the names and values of all variables of one venv or backend."""
LARGEST_HEADER = 8 << 10
"""Bytes of the value of a header."""
PLACE = "{}"
"""The placeholder for the value in the format of a header."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OF_INTERPRETER = frozenset({"PATH", "HOME", "TMPDIR"})
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OF_CONNECTION = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "keep-alive"}
    | {"proxy-authorization", "proxy-connection"}
)
_UNPRINTABLE = re.compile(r"[^\t\n\r -~\u00a0-\U0010ffff]")


@dataclass
class SecretHeader:
    """A header that the egress broker adds to requests for the hosts."""

    name: str
    hosts: List[str]
    """Names with a port, or without one for port 443."""
    format: str = PLACE
    """The value of the header, with `{}` in place of the secret, such as `Bearer {}`."""


@dataclass
class SecretSpec:
    """A value and its use: `env` or `header`."""

    value: str = field(repr=False)
    env: Optional[str] = None
    """The variable of each session that has the value."""
    header: Optional[SecretHeader] = None


@dataclass
class Secret:
    """A secret without its value."""

    name: str
    setAt: str
    """When the value or the use was last set."""
    env: Optional[str] = None
    header: Optional[SecretHeader] = None


def check_secret(name: str, spec: SecretSpec) -> None:
    """Check the name, the use and the value of a secret; the controller checks the hosts.

    Raises:
        InvalidRequest: something is wrong; the message says how to correct it, and never contains the value.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            '"{}" cannot name a secret: a name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with a letter or _'.format(
                name[:80]
            )
        )
    if (spec.env is None) == (spec.header is None):
        raise InvalidRequest("a secret takes either env, a variable of code, or header, which the broker adds")
    if not spec.value:
        raise InvalidRequest("value: is empty")
    if spec.env is not None:
        _check_variable(spec.env, spec.value)
    elif spec.header is not None:
        _check_header(spec.header, spec.value)


def _check_variable(name: str, value: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise InvalidRequest('env: "{}" cannot name a variable: use A-Z a-z 0-9 _'.format(name[:80]))
    if name.startswith(RESERVED_PREFIX) or name in _OF_INTERPRETER:
        raise InvalidRequest('env: venvd itself sets "{}": use another variable'.format(name))
    if needs_new_interpreter([name]):
        raise InvalidRequest(
            'env: "{}" changes how an interpreter or a library starts: set it as env of the venv'.format(name)
        )
    if _UNPRINTABLE.search(value):
        raise InvalidRequest("value: a variable takes text without control characters but tabs and line ends")
    if len(name) + len(value.encode("utf-8", "replace")) > LARGEST_VARIABLES:
        raise InvalidRequest("value: takes at most {} bytes with the name of its variable".format(LARGEST_VARIABLES))


def _check_header(header: SecretHeader, value: str) -> None:
    if not _HEADER.fullmatch(header.name) or header.name.lower() in _OF_CONNECTION:
        raise InvalidRequest('header.name: "{}" cannot be set: use Authorization, say'.format(header.name[:80]))
    if header.format.count(PLACE) != 1:
        raise InvalidRequest("header.format: takes {} once, where the value goes: Bearer {}")
    text = header.format.replace(PLACE, value)
    if not (text.isascii() and text.isprintable()) or text != text.strip() or len(text) > LARGEST_HEADER:
        raise InvalidRequest(
            "value: a header takes at most {} printable ASCII characters, without spaces around them; "
            "a file that ends with a line end has one too many".format(LARGEST_HEADER)
        )
    if not 1 <= len(header.hosts) <= MOST_HOSTS:
        raise InvalidRequest("header.hosts: takes 1 to {} hosts, not {}".format(MOST_HOSTS, len(header.hosts)))
