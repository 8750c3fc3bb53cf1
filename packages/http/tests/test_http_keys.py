"""Access keys: which a guard accepts, when they end, and how a key file is read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from venvd_contract import errors
from venvd_http.auth import Key, OwnToken, TokenGuard
from venvd_http.keys import KeyFile, parse, watch


def ignore(_table: object) -> None:
    """Take a table of replicas, which these tests are not about."""


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def key(token: str, scope: str = "use", expires_at: float | None = None) -> Key:
    return Key(token, digest(token), scope, expires_at)


def entry(token: str, **fields: Any) -> dict[str, Any]:
    return {"name": token, "sha256": digest(token).hex(), "scope": "use", "expiresAt": None, **fields}


def write(path: Path, *entries: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"keys": entries}))
    part.rename(path)


@pytest.fixture
def guard() -> TokenGuard:
    return TokenGuard(digest("own").hex())


def test_keys_are_accepted_beside_the_token(guard: TokenGuard) -> None:
    """A key may do what its scope says, the server's own token stays, and no other token is accepted."""
    guard.replace_keys([key("caller"), key("scraper", "metrics")])
    assert isinstance(guard.check("own"), OwnToken)
    accepted = guard.check("caller")
    assert accepted is not None
    assert accepted.name == "caller"
    guard.check("scraper", "metrics")
    with pytest.raises(errors.Forbidden):
        guard.check("scraper")
    with pytest.raises(errors.Unauthenticated):
        guard.check("stranger")


def test_a_key_that_was_just_accepted_ends_at_once(guard: TokenGuard) -> None:
    """A revoked key is refused, although the guard remembers the last token that it accepted."""
    guard.replace_keys([key("caller")])
    guard.check("caller")
    guard.replace_keys([])
    with pytest.raises(errors.Unauthenticated):
        guard.check("caller")


def test_an_expired_key_is_refused_at_each_use(guard: TokenGuard) -> None:
    """A key is refused from the moment of its expiry on, whether anything looked at the file or not."""
    guard.replace_keys([key("caller", expires_at=time.time() + 3600)])
    accepted = guard.check("caller")
    assert accepted is not None
    accepted.expires_at = time.time()
    with pytest.raises(errors.Unauthenticated, match='the key "caller" has expired'):
        guard.check("caller")


def test_an_end_reaches_those_who_watch(guard: TokenGuard) -> None:
    """Who watches a key is called once when it ends; a key that stays in the file does not end."""
    ended: list[str] = []
    for name in ("stays", "goes", "changes", "expires"):
        guard.replace_keys([key(each) for each in ("stays", "goes", "changes", "expires")])
        accepted = guard.check(name)
        assert accepted is not None
        accepted.watch(lambda name=name: ended.append(name))  # type: ignore[misc]
    guard.replace_keys([key("stays"), key("changes", "metrics"), key("expires")])
    assert sorted(ended) == ["changes", "goes"]
    expiring = guard.check("expires")
    assert expiring is not None
    expiring.expires_at = 1.0
    guard.end_expired()
    guard.end_expired()
    assert sorted(ended) == ["changes", "expires", "goes"]


def test_a_watcher_that_fails_leaves_the_others_their_turn(guard: TokenGuard, caplog: pytest.LogCaptureFixture) -> None:
    """A key ends for all its clients, and for those of other keys, whatever one of them does."""
    ended: list[str] = []
    guard.replace_keys([key("first"), key("second")])
    guard.on_key_end = lambda each: ended.append(each.name)
    first, second = guard.check("first"), guard.check("second")
    assert first is not None
    assert second is not None
    first.watch(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    for name in ("a", "b"):
        first.watch(lambda name=name: ended.append(name))  # type: ignore[misc]
    guard.replace_keys([])
    assert sorted(ended) == ["a", "b", "first", "second"]
    assert second.ended
    assert "ZeroDivisionError" in caplog.text


def test_who_watches_an_ended_key_is_told(guard: TokenGuard) -> None:
    """A key that ended a moment before it is watched still ends what uses it."""
    guard.replace_keys([key("caller")])
    accepted = guard.check("caller")
    assert accepted is not None
    guard.replace_keys([])
    ended: list[bool] = []
    accepted.watch(lambda: ended.append(True))
    assert ended == [True]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        '{"keys": {}}',
        '{"keys": [{"name": "a", "scope": "use"}]}',
        json.dumps({"keys": [entry("a", sha256="00")]}),
        json.dumps({"keys": [entry("a", scope="admin")]}),
        json.dumps({"keys": [entry("a", name="")]}),
        json.dumps({"keys": [entry("a", expiresAt="tomorrow")]}),
        json.dumps({"keys": [entry("a", expiresAt="2030-01-01T00:00:00")]}),
        json.dumps({"keys": [entry("a", expiresAt=5)]}),
    ],
)
def test_a_broken_file_keeps_the_keys(
    guard: TokenGuard, data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no key file changes no key and is logged once; the next good file counts."""
    path = tmp_path / "keys.json"
    file = KeyFile(path, guard, SimpleNamespace(replace_table=ignore, refresh=None))
    write(path, entry("first"))
    file.refresh()
    path.write_text(data)
    with caplog.at_level(logging.ERROR):
        file.refresh()
        file.refresh()
    assert len(caplog.records) == 1
    guard.check("first")
    write(path, entry("second"))
    file.refresh()
    guard.check("second")
    with pytest.raises(errors.Unauthenticated):
        guard.check("first")


def test_a_missing_file_keeps_the_keys(guard: TokenGuard, tmp_path: Path) -> None:
    """A server whose file disappears serves on with the keys that it knows."""
    path = tmp_path / "keys.json"
    file = KeyFile(path, guard, SimpleNamespace(replace_table=ignore, refresh=None))
    file.refresh()
    write(path, entry("first"))
    file.refresh()
    path.unlink()
    file.refresh()
    guard.check("first")


def test_a_new_key_is_accepted_at_once(guard: TokenGuard, tmp_path: Path) -> None:
    """A token that is unknown makes the server look at the file, so that a new key needs no waiting."""
    path = tmp_path / "keys.json"
    write(path, entry("first"))

    async def use_both() -> None:
        watching = watch(path, guard, SimpleNamespace(replace_table=ignore, refresh=None))
        assert watching is not None
        write(path, entry("second"))
        guard.check("second")
        with pytest.raises(errors.Unauthenticated):
            guard.check("first")
        watching.cancel()

    asyncio.run(use_both())


def own(token: str, expires_at: float | None = None) -> OwnToken:
    name = "backend:demo" if expires_at is None else "backend:demo (older)"
    return OwnToken(name, digest(token), expires_at=expires_at)


def test_a_rotated_token_ends_with_its_overlap() -> None:
    """Both tokens are accepted until the older one ends, which ends those who use it and says how to go on."""
    guard = TokenGuard(digest("first").hex(), name="backend:demo")
    ended: list[Any] = []
    guard.on_key_end = ended.append
    first = guard.check("first")
    assert first is not None
    first.watch(lambda: ended.append("client"))
    guard.replace_keys([own("first", time.time() + 3600), own("second")])
    assert guard.check("first") is first
    assert guard.admit("second", "").name == "backend:demo"
    assert ended == []
    guard.replace_keys([own("first", time.time()), own("second")])
    guard.end_expired()
    assert ended == ["client", first]
    assert not guard.recognises("first")
    with pytest.raises(errors.Unauthenticated, match="`venvd backend token demo`"):
        guard.check("first")
    guard.check("second")


def test_own_tokens_of_the_keys_replace_the_first_one() -> None:
    """A server that starts after a rotation takes no token of an older configuration, and says nothing of old ends."""
    guard = TokenGuard(digest("first").hex(), name="backend:demo")
    ended: list[Any] = []
    guard.on_key_end = ended.append
    guard.replace_keys([own("older", 1.0), own("second"), key("caller")])
    guard.end_expired()
    assert [each.name for each in ended] == ["backend:demo"]  # the first one, which is not among them
    assert not guard.recognises("first")
    with pytest.raises(errors.Unauthenticated, match="was rotated"):
        guard.check("older")
    guard.replace_keys([key("caller")])
    guard.check("first")


def test_a_guard_without_a_token_stays_open() -> None:
    """Keys close no server that serves everyone."""
    guard = TokenGuard("")
    guard.replace_keys([key("caller")])
    assert guard.open
    assert guard.check(None) is None


def test_own_tokens_are_read_from_a_file() -> None:
    """A key file names the tokens of the server, with their ends."""
    token = {"name": "backend:demo", "sha256": "00" * 32, "expiresAt": "2030-01-01T00:00:00Z"}
    ((read,), _) = parse(json.dumps({"keys": [], "tokens": [token]}).encode())
    assert isinstance(read, OwnToken)
    assert (read.name, read.sha256, read.scope, read.expires_at) == ("backend:demo", bytes(32), "use", 1893456000)


def test_times_have_a_zone() -> None:
    """An expiry is a moment, whatever zone it is written in."""
    (first, second), _ = parse(
        json.dumps(
            {"keys": [entry("a", expiresAt="2030-01-01T00:00:00Z"), entry("b", expiresAt="2030-01-01T02:00:00+02:00")]}
        ).encode()
    )
    assert first.expires_at == second.expires_at == 1893456000
