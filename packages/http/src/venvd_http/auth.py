"""Tokens: read from a request, and checked by their SHA-256."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import msgspec

from venvd_contract.errors import Forbidden, Unauthenticated, VenvdError
from venvd_http.asgi import Scope
from venvd_http.guesses import USUAL_SECONDS, Guesses

_log = logging.getLogger("venvd.access")

USE = "use"
METRICS = "metrics"


def bearer_token(header: bytes) -> str | None:
    """Return the token in a value of `Authorization`, or None if it is not a bearer token."""
    return str(header[7:].strip(), "latin-1") if header[:7].lower() == b"bearer " else None


def read_token(scope: Scope) -> str | None:
    """Return the bearer token of a request, or None."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bearer_token(value)
    return None


def sha256(token: str) -> str:
    """Return the digest by which the server knows a token, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Key:
    """An access key beside a backend's own token; a backend may have many, and each may end at any time.

    Attributes:
        name: the name of the key in logs.
        sha256: the digest of its token.
        scope: `use` or `metrics`.
        expires_at: seconds since the epoch; None is never.
        ended: whether the key was revoked or has expired.
    """

    def __init__(self, name: str, sha256: bytes, scope: str = USE, expires_at: float | None = None) -> None:
        self.name = name
        self.sha256 = sha256
        self.scope = scope
        self.expires_at = expires_at
        self.ended = False
        self._watchers: set[Callable[[], None]] = set()

    def equals(self, other: Key) -> bool:
        """Whether both are the same key with the same rights."""
        mine = (self.sha256, self.name, self.scope, self.expires_at)
        return mine == (other.sha256, other.name, other.scope, other.expires_at)

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and time.time() >= self.expires_at

    def error(self) -> WrongToken:
        """Make the error that ends the calls of a client whose key has ended."""
        return WrongToken(f'the key "{self.name}" {"has expired" if self.expired else "was revoked"}')

    def follow(self, other: Key) -> None:
        """Copy the attributes that may differ in an equal key."""

    def watch(self, on_end: Callable[[], None]) -> None:
        """Call `on_end` when the key ends; at once if it has ended."""
        if self.ended:
            on_end()
        else:
            self._watchers.add(on_end)

    def unwatch(self, on_end: Callable[[], None]) -> None:
        self._watchers.discard(on_end)

    def end(self) -> None:
        """End the key, and the calls and connections of its clients. A watcher that fails does not stop the others."""
        self.ended = True
        while self._watchers:
            on_end = self._watchers.pop()
            try:
                on_end()
            except Exception:  # noqa: BLE001 — a defect of one client must not keep the others connected
                _log.exception("the end of the key %s could not end one of its clients", self.name)


class OwnToken(Key):
    """A token of the server itself. After a rotation, the server accepts the older token for a while."""

    def equals(self, other: Key) -> bool:
        """Whether both are the same token; their ends may differ, because a rotation sets the end of a token."""
        return isinstance(other, OwnToken) and self.sha256 == other.sha256 and not self.ended

    def follow(self, other: Key) -> None:
        """Copy the name and the end of an equal token."""
        self.name, self.expires_at = other.name, other.expires_at

    def error(self) -> WrongToken:
        """Make the error that says how to get the new token."""
        name = self.name.removeprefix("backend:").partition(" ")[0]
        return WrongToken(
            f'this token of the backend "{name}" was rotated and has ended: an operator reads the new one with '
            f"`venvd backend token {name}`, or as `token` of GET /v1/backends/{name} of the controller"
        )


class WrongToken(Unauthenticated):
    """A token that is unknown or has ended. Its refusal is delayed, so that guesses cost time.

    Attributes:
        delay: seconds.
    """

    delay: float = USUAL_SECONDS


async def hold_back(error: BaseException) -> None:
    """Wait before the refusal of a wrong token; return at once for other errors."""
    if isinstance(error, WrongToken):
        await asyncio.sleep(error.delay)


class Caller(msgspec.Struct, frozen=True):
    """The sender of an admitted request.

    Attributes:
        peer: the address of the sender.
        name: the name of its token in logs; None if it needs no token.
        key: the access key that it sent, if any.
    """

    peer: str = ""
    name: str | None = None
    key: Key | None = None


class TokenGuard:
    """Accepts the server's own token for everything, another token for metrics only, and access keys.

    The guard knows the SHA-256 of tokens, and compares in constant time.

    Args:
        token_sha256: hexadecimal; empty lets everyone do everything.
        metrics_token_sha256: hexadecimal; empty means no such token.
        server: the name of the server in messages.
        name: the name of the server's own token in logs.
        guesses: counts refusals, and delays those of wrong tokens.

    Attributes:
        refresh_keys: called before an unknown token is refused, because its key may be new.
        on_key_end: called with each ended key, after its watchers.
        on_refusal: called with the name of a refused token (None if unknown), the peer that sent it, and the error.
    """

    def __init__(
        self,
        token_sha256: str,
        metrics_token_sha256: str = "",
        server: str = "this backend",
        name: str = "backend",
        guesses: Guesses | None = None,
    ) -> None:
        self._own = bytes.fromhex(token_sha256)
        """The digest of the server's own token; `replace_keys` uses it if the keys contain no `OwnToken`."""
        self._metrics_token = bytes.fromhex(metrics_token_sha256)
        self._server = server
        self._guesses = guesses or Guesses()
        self._name = name
        self._keys: dict[bytes, Key] = {self._own: OwnToken(name, self._own)} if self._own else {}
        self._accepted = b""
        """The last token that may do everything, so that it is not hashed again for each call."""
        self._accepted_key: Key | None = None
        self.refresh_keys: Callable[[], None] | None = None
        self.on_key_end: Callable[[Key], None] | None = None
        self.on_refusal: Callable[[str | None, str, VenvdError], None] | None = None

    @property
    def open(self) -> bool:
        """Whether everyone may do everything."""
        return not self._own

    def admit(self, token: str | None, peer: str) -> Caller:
        """Check the token of a call from `peer`, and return its sender.

        Raises:
            Unauthenticated, Forbidden: as `check`.
        """
        key = self.check(token, peer=peer)
        return Caller(peer, None if key is None else key.name, key)

    def check(self, token: str | None, scope: str = USE, peer: str = "") -> Key | None:
        """Check a token for the scope `use` or `metrics`, and return its key.

        The key is None if everyone may do everything, or if the token is the one for metrics. `peer` is the address of
        the sender.

        Raises:
            Unauthenticated: there is no token, it is unknown, or its key has ended.
            Forbidden: the token is known, but does not allow `scope`.
        """
        if self.open:
            return None
        if not token:
            raise self._refuse(Unauthenticated("a token is needed, and the request has none"), None, peer, "none")
        given = token.encode("utf-8", "surrogatepass")
        if self._accepted and hmac.compare_digest(given, self._accepted):
            return self._accepted_key
        granted, key = self._identify(given, peer)
        if granted == USE and key is not None and key.expires_at is None:
            self._accepted, self._accepted_key = given, key
        elif granted == METRICS != scope:
            raise self._refuse(Forbidden("this token may read metrics only"), key.name if key else METRICS, peer)
        return key

    def recognises(self, token: str | None) -> bool:
        """Return whether a token is known, with any rights. This method logs and counts no refusal."""
        if self.open:
            return True
        if not token:
            return False
        given = token.encode("utf-8", "surrogatepass")
        if self._accepted and hmac.compare_digest(given, self._accepted):
            return True
        digest = hashlib.sha256(given).digest()
        if hmac.compare_digest(digest, self._metrics_token):
            return True
        if digest not in self._keys and self.refresh_keys is not None:
            self.refresh_keys()
        key = self._keys.get(digest)
        return key is not None and not key.expired

    def check_controller(self, token: str | None, peer: str) -> None:
        """Check that a token is the metrics token, which the controller of this server derives.

        Raises:
            Unauthenticated, Forbidden: it is another token.
        """
        if not token:
            raise self._refuse(Unauthenticated("the token of the controller is needed"), None, peer, "none")
        granted, key = self._identify(token.encode("utf-8", "surrogatepass"), peer)
        if granted != METRICS or key is not None:
            raise self._refuse(Forbidden("only the controller reads this"), key.name if key else self._name, peer)

    def _identify(self, token: bytes, peer: str) -> tuple[str, Key | None]:
        digest = hashlib.sha256(token).digest()
        if hmac.compare_digest(digest, self._metrics_token):
            return METRICS, None
        key = self._keys.get(digest)
        if key is None and self.refresh_keys is not None:
            self.refresh_keys()
            key = self._keys.get(digest)
        if key is None:
            error = WrongToken(f"the token is not one that {self._server} accepts")
            raise self._refuse(error, None, peer, f"unknown, its SHA-256 begins with {digest.hex()[:12]}")
        if key.expired:
            raise self._refuse(key.error(), key.name, peer)
        return key.scope, key

    def replace_keys(self, keys: Collection[Key]) -> None:
        """Accept these keys and no others; a known key that is missing here, or has other rights, ends now.

        `OwnToken`s among them replace the token with which the server started.
        """
        previous, self._keys = self._keys, {}
        if self._own and not any(isinstance(key, OwnToken) for key in keys):
            keys = [OwnToken(self._name, self._own), *keys]
        for key in keys:
            known = previous.get(key.sha256, key)
            if known is not key and known.equals(key):
                known.follow(key)
                self._keys[key.sha256] = known
            else:
                key.ended = isinstance(key, OwnToken) and key.expired  # it ended before the server knew it
                self._keys[key.sha256] = key
        self._accepted, self._accepted_key = b"", None
        self._end(key for digest, key in previous.items() if self._keys.get(digest) is not key)

    def end_expired(self) -> None:
        """End the keys that have expired."""
        self._end([key for key in self._keys.values() if key.expires_at is not None and key.expired])

    def _end(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key.ended:
                continue
            _log.info("%s", key.error().message, extra={"fields": {"key": key.name}})
            key.end()
            if self.on_key_end is not None:
                self.on_key_end(key)

    def _refuse(self, error: VenvdError, key: str | None, peer: str, described: str = "") -> VenvdError:
        """Report a refused token, and return the error. The log has `described` for a token without a name."""
        verdict = self._guesses.note(peer, wrong=isinstance(error, WrongToken))
        if isinstance(error, WrongToken):
            error.delay = verdict.delay
        if verdict.logged:
            fields = {"key": key or described, "client": peer or None, "refusals": verdict.count}
            _log.warning("a token was refused: %s", error.message, extra={"fields": fields})
        if self.on_refusal is not None:
            self.on_refusal(key, peer, error)
        return error


@contextmanager
def tie_to(key: Key | None) -> Iterator[None]:
    """Cancel this block of the task as soon as an access key ends.

    Raises:
        Unauthenticated: the key ended.
    """
    task = asyncio.current_task()
    if key is None or task is None:
        yield
        return

    def end() -> None:
        task.cancel()

    key.watch(end)
    try:
        yield
    except asyncio.CancelledError:
        if not key.ended:
            raise
        task.uncancel()
        raise key.error() from None
    finally:
        key.unwatch(end)
