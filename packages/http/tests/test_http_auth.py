"""Tokens: which are accepted, and for what."""

from __future__ import annotations

import hashlib

import pytest

from venvd_contract import errors
from venvd_http.auth import TokenGuard


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def test_the_guard_knows_its_tokens() -> None:
    """One token may do everything, one may read metrics, and no other may do anything."""
    guard = TokenGuard(digest("secret"), digest("scrape"))
    guard.check("secret")
    guard.check("secret", "metrics")
    guard.check("scrape", "metrics")
    with pytest.raises(errors.Forbidden):
        guard.check("scrape")
    for wrong in (None, "", "Secret", "secret ", "\udcff", "ü"):
        with pytest.raises(errors.Unauthenticated):
            guard.check(wrong)


def test_no_metrics_token_means_that_none_reads_metrics_only() -> None:
    """An empty digest is no token, not the token whose digest is empty."""
    with pytest.raises(errors.Unauthenticated):
        TokenGuard(digest("secret")).check("", "metrics")
