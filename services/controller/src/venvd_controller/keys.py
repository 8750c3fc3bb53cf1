"""Access keys. The controller stores only their digests, and refuses a key once it is revoked or has expired."""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import func, select

from venvd_contract.access import ADMIN, BACKEND_PREFIX, KEY_PREFIX, METRICS, USE, VENV, Key, check_scope
from venvd_contract.errors import Conflict, InvalidRequest
from venvd_contract.resources import check_name
from venvd_controller.backends import Backends
from venvd_controller.callers import OLDER_ADMIN, Caller
from venvd_controller.clock import format_time, now
from venvd_controller.database import Database, after_commit, get_row
from venvd_controller.database.tables import KeyRow, LaunchRow
from venvd_controller.home import Home
from venvd_http.auth import WrongToken, sha256

_MAX_KEYS = 1000
_MAX_SCOPES = 100
_USE_SECONDS = 60.0
"""Seconds between two writes of the times at which keys were last used."""
_LOAD_SECONDS = 60.0
"""Seconds after which the keys are read again, in case the reading after the last change failed."""
_RESERVED = (ADMIN, METRICS)
"""The names of the tokens of the home in logs and in the audit log."""


@dataclass(frozen=True)
class KnownKey:
    """What the controller remembers of a key."""

    name: str
    sha256: str
    scopes: tuple[str, ...]
    expires_at: str | None

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)


class Keys:
    """All keys, and the other tokens that the controller knows: those of its home and of its backends.

    Attributes:
        on_change: functions called after a key was created or revoked.
    """

    def __init__(self, database: Database, home: Home, backends: Backends) -> None:
        self._database = database
        self._home = home
        self._backends = backends
        self._keys: dict[str, KnownKey] = {}
        self._lock = threading.Lock()
        """Locked while `_keys` is read from the database, so an older reading never replaces a newer one."""
        self._next_load = 0.0
        self._used_at: dict[str, str] = {}
        self._next_write = 0.0
        self.on_change: list[Callable[[], None]] = []
        self._load()

    def _load(self) -> None:
        with self._lock:
            with self._database.read() as session:
                rows = session.scalars(select(KeyRow)).all()
            self._keys = {row.sha256: KnownKey(row.name, row.sha256, tuple(row.scope), row.expires_at) for row in rows}
            self._next_load = time.monotonic() + _LOAD_SECONDS

    def _forget(self, digest: str) -> None:
        """Drop a key from memory. This does not need the database."""
        with self._lock:
            self._keys = {other: key for other, key in self._keys.items() if other != digest}

    def render_file(self, row: LaunchRow) -> bytes:
        """Return the key file of a backend's server.

        It contains the backend's own tokens, each key that may call the backend or read its metrics, and the table of
        its replicas. Own tokens that have ended are there too, so that the server can say that they ended.
        """
        backend, entries = row.replica_of or row.name, []
        for key in sorted(self._keys.values(), key=lambda key: key.name):
            caller = Caller(key.name, key.name, key.scopes)
            use = caller.has(USE + backend) or caller.has(VENV + row.venv)
            if not key.expired and (use or caller.has(METRICS)):
                scope = "use" if use else METRICS
                entries.append({"name": key.name, "sha256": key.sha256, "scope": scope, "expiresAt": key.expires_at})
        tokens = [
            {"name": _name_token(backend, end), "sha256": digest, "expiresAt": end}
            for digest, end in self._backends.tokens.list_digests(row)
        ]
        siblings = asdict(self._backends.make_replica_table(row))
        return json.dumps({"keys": entries, "tokens": tokens, "siblings": siblings}).encode()

    def list_all(self, after: str | None, limit: int) -> Sequence[Key]:
        query = select(KeyRow).where(KeyRow.name > (after or "")).order_by(KeyRow.name).limit(limit)
        with self._database.read() as session:
            return [self._to_resource(row) for row in session.scalars(query)]

    def create(self, name: str, scopes: Sequence[str], expires_at: str | None) -> Key:
        """Create a key. Only the returned resource has its token.

        Raises:
            InvalidRequest: a field is wrong.
            Conflict: the name is taken, or there are too many keys.
        """
        check_name("key", name)
        if name in _RESERVED:
            raise InvalidRequest(f'"{name}" is the name of a token of the controller\'s home: choose another')
        if not 1 <= len(scopes) <= _MAX_SCOPES:
            raise InvalidRequest(f"scope: takes 1 to {_MAX_SCOPES} scopes, not {len(scopes)}")
        token = KEY_PREFIX + secrets.token_urlsafe(32)
        row = KeyRow(
            name=name,
            sha256=sha256(token),
            scope=list(dict.fromkeys(check_scope(scope) for scope in scopes)),
            created_at=now(),
            expires_at=_parse_expiry(expires_at) if expires_at is not None else None,
        )
        with self._database.write() as session:
            if session.get(KeyRow, name) is not None:
                raise Conflict(f'a key "{name}" exists already; revoke it first, or choose another name')
            if session.scalar(select(func.count()).select_from(KeyRow)) >= _MAX_KEYS:  # type: ignore[operator]
                raise Conflict(f"there are {_MAX_KEYS} keys, and no more are kept: revoke those that are not used")
            session.add(row)
            after_commit(session, self._announce_change)
        resource = self._to_resource(row)
        resource.key = token
        return resource

    def revoke(self, name: str) -> None:
        """Delete a key. The controller refuses it from now on.

        Raises:
            NotFound: there is no such key.
        """
        with self._database.write() as session:
            row = get_row(session, KeyRow, "key", name)
            session.delete(row)
            after_commit(session, partial(self._forget, row.sha256))
            after_commit(session, self._announce_change)

    def _announce_change(self) -> None:
        self._load()
        for callback in self.on_change:
            callback()

    # ---- requests ----

    def identify(self, token: str) -> Caller:
        """Return the owner of a token. This reads the database only for what may be the token of a backend.

        Raises:
            Unauthenticated: the token is unknown, or has ended.
        """
        digest = sha256(token)
        if hmac.compare_digest(digest, sha256(self._home.token)):
            return Caller(ADMIN, "the token of the controller's home", (ADMIN,), lambda: self._home.accepts(digest))
        if hmac.compare_digest(digest, sha256(self._home.metrics_token)):
            return Caller(METRICS, "the metrics token", (METRICS,))
        key = self._keys.get(digest)
        if key is not None:
            return self._admit(key)
        older = self._home.find_older_token(digest)
        if older is not None:
            title = "an older token of the controller's home"
            if older.expired:
                raise WrongToken(f"{title} has ended: the file `token` of the home has the new one")
            return Caller(OLDER_ADMIN, title, (ADMIN,), lambda: self._home.accepts(digest))
        owner = self._backends.tokens.find_owner(digest) if token.startswith(BACKEND_PREFIX) else None
        if owner is None:
            raise WrongToken("the token is not one that this controller accepts")
        name = _name_token(owner.backend, owner.source.expiresAt if owner.source else None)
        if owner.manages:
            title = f'the backend "{owner.backend}", which manages venvs,'
            return Caller(name, title, tuple(VENV + each for each in owner.manages))
        title = f'the token of the backend "{owner.backend}"'
        if owner.source is not None and owner.source.expired:
            raise WrongToken(f"{title} was rotated, and this one has ended: `venvd backend token` shows the new one")
        return Caller(name, title, (USE + owner.backend,))

    def _admit(self, key: KnownKey) -> Caller:
        if key.expired:
            raise WrongToken(f'the key "{key.name}" expired at {key.expires_at}')
        self._used_at[key.name] = now()

        def is_valid() -> bool:
            return key.sha256 in self._keys and not key.expired

        return Caller(key.name, f'the key "{key.name}"', key.scopes, is_valid)

    # ---- chores ----

    def reload(self) -> None:
        """Read the keys again, at most once a minute."""
        if time.monotonic() >= self._next_load:
            self._load()

    def write_uses(self) -> None:
        """Write to the database when the keys were last used, at most once a minute."""
        if self._used_at and time.monotonic() >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write to the database when the keys were last used."""
        self._next_write = time.monotonic() + _USE_SECONDS
        uses, self._used_at = self._used_at, {}
        with self._database.write() as session:
            for name, used_at in uses.items():
                row = session.get(KeyRow, name)
                if row is not None and (row.last_used_at or row.created_at) < used_at:
                    row.last_used_at = used_at

    def _to_resource(self, row: KeyRow) -> Key:
        known = KnownKey(row.name, row.sha256, tuple(row.scope), row.expires_at)
        return Key(
            name=row.name,
            scope=row.scope,
            createdAt=row.created_at,
            expiresAt=row.expires_at,
            expired=known.expired,
            lastUsedAt=self._used_at.get(row.name, row.last_used_at),
        )


def _parse_expiry(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest(f'expiresAt: "{text[:80]}" is no time of RFC 3339, such as 2030-01-31T12:00:00Z')
    if moment <= datetime.now(UTC):
        raise InvalidRequest(f"expiresAt: {text[:80]} is past")
    return format_time(moment)


def _name_token(backend: str, end: str | None) -> str:
    """Return the name of a backend's token for logs and the audit log. Only tokens before a rotation have an end."""
    return f"backend:{backend}" if end is None else f"backend:{backend} (older)"
