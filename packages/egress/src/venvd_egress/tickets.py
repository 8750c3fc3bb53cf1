"""Tickets: the rules of one backend, signed by the controller, so that a shared broker needs no list of backends."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, Dict, Mapping

MOST_TICKET_BYTES = 48 << 10
"""A ticket must fit into the head of a request, which has at most 64 KiB."""


def make_ticket(key: bytes, rules: Mapping[str, Any]) -> str:
    """Sign rules: `{"backend", "destinations", "networks"}`.

    Raises:
        ValueError: the rules are too long.
    """
    payload = base64.urlsafe_b64encode(json.dumps(rules, separators=(",", ":")).encode())
    if len(payload) > MOST_TICKET_BYTES:
        raise ValueError("the destinations have {} bytes; the limit is {}".format(len(payload), MOST_TICKET_BYTES))
    return "{}.{}".format(payload.decode(), _sign(key, payload))


def read_ticket(key: bytes, ticket: str) -> Dict[str, Any]:
    """Return the rules of a ticket.

    Raises:
        ValueError: the ticket is not signed with the key.
    """
    payload, _, signature = ticket.partition(".")
    if not hmac.compare_digest(_sign(key, payload.encode("latin-1")).encode(), signature.encode("latin-1")):
        raise ValueError("the ticket is not signed with the key of this broker")
    rules: Dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload))
    return rules


def _sign(key: bytes, payload: bytes) -> str:
    return hmac.new(key, payload, hashlib.sha256).hexdigest()
