"""The authorities of a site, such as those of its proxies. Servers trust them beside those of their system."""

from __future__ import annotations

import logging
import re
import ssl
from pathlib import Path

from venvd_contract.watched_file import find_version

log = logging.getLogger("venvd.controller")

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_LARGEST = 512 << 10
"""The most bytes of all certificates. The file of secrets has room for them on each engine."""


class SiteAuthorities:
    """Reads the file of `VENVD_CA_BUNDLE`, and reads it again when it has changed.

    Args:
        path: the file; None for no authorities.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = ()
        self._text = ""

    def read(self) -> str:
        """Return the certificates, PEM. If the file cannot be used now, return the earlier ones."""
        if self._path is None:
            return ""
        seen = find_version(self._path)
        if seen == self._seen:
            return self._text
        self._seen = seen
        try:
            self._text = _parse(self._path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("VENVD_CA_BUNDLE: backends do not get the certificates of %s: %s", self._path, error)
        return self._text


def _parse(content: bytes) -> str:
    """Return the certificates in a file without the text between them.

    Raises:
        ValueError: there are none, or they cannot be used.
    """
    text = b"\n".join(_CERTIFICATE.findall(content)).decode("ascii")
    if not text:
        raise ValueError("it holds no certificate in PEM form")
    if len(text) > _LARGEST:
        raise ValueError(f"its certificates have more than {_LARGEST} bytes together")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        raise ValueError(f"a certificate in it is damaged: {error.reason}") from None
    return text
