"""The home of a controller: identity, secret, tokens, and the lock that keeps a second controller out."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from venvd_contract.errors import Conflict, InvalidRequest, Unavailable
from venvd_contract.resources import LONGEST_OVERLAP
from venvd_controller import older_tokens
from venvd_controller.clock import format_time
from venvd_controller.older_tokens import OlderToken
from venvd_http.auth import sha256

IDENTITY = ("id", "secret", "token", "metrics-token")
"""The files of a home's identity."""
OLDER_TOKENS = "older-tokens"
RESTORING = "restoring"
"""This file exists while a restore replaces the state of a home."""


class Home:
    """The directory of one controller's state.

    Args:
        path: the directory; made if it is absent.
        token: the admin's token; null is that of the home.
        identity: a directory with the files `id`, `secret`, `token` and `metrics-token`; the home then lacks these.

    Raises:
        Conflict: another controller runs on the home, or a restore into it did not end.
        InvalidRequest: `identity` lacks a file.
        Unavailable: the directory cannot be written.
    """

    def __init__(self, path: Path, token: str | None = None, identity: Path | None = None) -> None:
        self.path = path.absolute()
        self._rotating = threading.Lock()
        self._identity = identity
        self._rotates = token is None and identity is None
        try:
            self._open(token)
        except OSError as error:
            raise Unavailable(
                f"the home {self.path} cannot be used: {error.strerror or error}; name another with VENVD_HOME"
            ) from None

    def _open(self, token: str | None) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock_home(self.path)
        try:
            self._load(token)
        except BaseException:
            self._lock.close()
            raise

    def _load(self, token: str | None) -> None:
        if (self.path / RESTORING).exists():
            raise Conflict(
                f"a restore into the home {self.path} did not end, and its state is incomplete: "
                "run `venvd restore FILE` again"
            )
        self.id = self._load_or_create("id", lambda: secrets.token_hex(6), 0o644)
        self._secret = self._load_or_create("secret", lambda: secrets.token_hex(32), 0o600)
        self.token = token or self._load_or_create("token", _create_token, 0o600)
        self.metrics_token = self._load_or_create("metrics-token", _create_token, 0o600)
        file = self.path / OLDER_TOKENS
        self._older = older_tokens.parse(file.read_text()) if file.exists() else ()

    def _load_or_create(self, name: str, create: Callable[[], str], mode: int) -> str:
        if self._identity is not None:
            return self._read_identity(self._identity / name)
        path = self.path / name
        if path.exists() and (text := path.read_text().strip()):
            return text
        text = create()
        write_file(path, text, mode)
        return text

    def _read_identity(self, path: Path) -> str:
        try:
            text = path.read_text().strip()
        except OSError as error:
            raise InvalidRequest(f"VENVD_IDENTITY_DIR: cannot read {path}: {error.strerror}") from None
        if not text:
            raise InvalidRequest(f"VENVD_IDENTITY_DIR: {path} is empty")
        return text

    def announce(self, url: str) -> None:
        """Write the URL and the token for the clients of this home."""
        write_file(self.path / "token", self.token, 0o600)
        write_file(self.path / "url", url, 0o644)

    def rotate_token(self, overlap: float) -> str:
        """Give the home a new token. Earlier ones end after `overlap` seconds. Return the time of that end.

        Raises:
            InvalidRequest: `overlap` is out of bounds.
            Conflict: the token does not come from the home.
        """
        if not 0 <= overlap <= LONGEST_OVERLAP:
            raise InvalidRequest(f"overlap: takes 0 to {LONGEST_OVERLAP} seconds, not {overlap:.15g}")
        if not self._rotates:
            source = "VENVD_TOKEN" if self._identity is None else "VENVD_IDENTITY_DIR"
            raise Conflict(f"the token of this controller comes from {source}: change it there, and restart")
        with self._rotating:
            end = format_time(datetime.now(UTC) + timedelta(seconds=overlap))
            older = older_tokens.add(self._older, sha256(self.token), end)
            token = _create_token()
            write_file(self.path / OLDER_TOKENS, older_tokens.render(older), 0o600)
            write_file(self.path / "token", token, 0o600)
            self.token, self._older = token, older
        return end

    def find_older_token(self, digest: str) -> OlderToken | None:
        """Find an earlier token by its SHA-256, whether it has ended or not."""
        return next((each for each in self._older if hmac.compare_digest(each.sha256, digest)), None)

    def accepts(self, digest: str) -> bool:
        """Return whether the token with this SHA-256 is the home's, or an earlier one that has not ended."""
        older = self.find_older_token(digest)
        return hmac.compare_digest(digest, sha256(self.token)) or (older is not None and not older.expired)

    def publish_metrics_token(self, path: Path) -> None:
        """Copy the metrics token to a file that its group may read, for a scraper without access to the home.

        Raises:
            InvalidRequest: the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, self.metrics_token, 0o640)
            path.chmod(0o640)  # despite the umask
        except OSError as error:
            raise InvalidRequest(f"VENVD_METRICS_TOKEN_FILE: cannot write {path}: {error.strerror}") from None

    def withdraw(self) -> None:
        """Remove the URL, since the controller stops and clients should not look for it."""
        (self.path / "url").unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def derive_key(self, purpose: str) -> bytes:
        """Derive a key of 256 bits from the home's secret. It is not stored."""
        return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(self._secret.encode())

    def derive_token(self, purpose: str, nonce: str) -> str:
        """Derive a token from the home's secret and a backend's nonce. It is not stored."""
        digest = hmac.new(self._secret.encode(), f"{purpose}:{nonce}".encode(), hashlib.sha256).hexdigest()
        return f"vd_{digest[:48]}"


def lock_home(path: Path) -> IO[str]:
    """Take the lock of a home. Closing the file releases the lock.

    Raises:
        Conflict: a controller runs on the home.
    """
    file = (path / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Conflict(
            f"another controller runs on {path}: stop it, or give this one a home of its own with VENVD_HOME"
        ) from None
    return file


def write_file(path: Path, text: str, mode: int) -> None:
    """Replace a file of one line in one step."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text + "\n")
    part.rename(path)


def _create_token() -> str:
    return f"vc_{secrets.token_urlsafe(32)}"
