"""The file of a backup: a compressed tar archive, written and read as a stream.

backup.json                 format, version of venvd, revision of the schema, ID of the home, time
identity/id, secret, …      the files of the home's identity, as the data of a Secret of Kubernetes
home/older-tokens, …        other files of the home
tables/NAME/000001.jsonl    rows of a table, a JSON object a line; JSON columns are text
SHA256SUMS                  checksums of all files before it, as of sha256sum; without it, the archive is truncated
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import BinaryIO

from venvd_contract.errors import InvalidRequest

FORMAT = 1
HEADER = "backup.json"
IDENTITY = "identity/"
HOME = "home/"
TABLES = "tables/"
_SUMS = "SHA256SUMS"
_PROGRAM = "venvd"
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error)


@dataclass(frozen=True)
class Header:
    """What a backup says about itself."""

    format: int
    version: str
    """The version of venvd."""
    revision: str
    """The revision of the schema of its tables."""
    home: str
    created_at: str


class ArchiveWriter:
    """Writes the files of a backup to a stream."""

    def __init__(self, stream: BinaryIO, header: Header) -> None:
        self._tar = tarfile.open(fileobj=stream, mode="w|gz")  # noqa: SIM115 - `close` closes it
        self._sums: list[str] = []
        self.add(HEADER, json.dumps({"program": _PROGRAM, **asdict(header)}, indent=2).encode() + b"\n")

    def add(self, name: str, data: bytes) -> None:
        self._sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
        self._add(name, data)

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o600
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        """Write the checksums, and end the archive."""
        self._add(_SUMS, "".join(self._sums).encode())
        self._tar.close()


class ArchiveReader:
    """Reads the files of a backup from a stream, in their order.

    Raises:
        InvalidRequest: the stream is not a backup, or has a newer format.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._sums: list[str] = []
        try:
            self._tar = tarfile.open(fileobj=stream, mode="r|gz")  # noqa: SIM115 - the caller closes the stream
            self._files = self._read()
            name, data = next(self._files)
        except (*_DAMAGE, StopIteration) as error:
            raise InvalidRequest(f"this is no backup of venvd: {str(error) or 'it is empty'}") from None
        self.header = _parse_header(name, data)

    def _read(self) -> Iterator[tuple[str, bytes]]:
        for member in self._tar:
            file = self._tar.extractfile(member)
            data = b"" if file is None else file.read()
            if member.name != _SUMS:
                self._sums.append(f"{hashlib.sha256(data).hexdigest()}  {member.name}\n")
            yield member.name, data

    def read_files(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over names and contents of the files after the header. The last step compares the checksums.

        Raises:
            InvalidRequest: the archive is truncated or damaged.
        """
        sums = None
        while True:
            try:
                name, data = next(self._files)
            except StopIteration:
                break
            except _DAMAGE as error:
                raise InvalidRequest(f"the backup is truncated or damaged: {error}") from None
            if sums is not None:
                raise InvalidRequest(f"the backup is damaged: {name} follows its end")
            if name == _SUMS:
                sums = data
            else:
                yield name, data
        if sums is None:
            raise InvalidRequest("the backup is truncated: its end is missing")
        if sums != "".join(self._sums).encode():
            raise InvalidRequest("the backup is damaged: a checksum differs")


def _parse_header(name: str, data: bytes) -> Header:
    try:
        fields = json.loads(data) if name == HEADER else {}
        is_known = isinstance(fields, dict) and fields.pop("program", None) == _PROGRAM
        version, number = (fields.get("version"), fields.get("format")) if is_known else (None, None)
    except ValueError:
        is_known = False
    if not is_known:
        raise InvalidRequest(f"this is no backup of venvd: its first file is not {HEADER}")
    if number != FORMAT:
        raise InvalidRequest(
            f"the backup has format {number} of venvd {version}, and this program reads format {FORMAT}: "
            f"restore it with venvd {version} or a newer one"
        )
    try:
        return Header(**fields)
    except TypeError as error:
        raise InvalidRequest(f"the backup is damaged: {HEADER}: {error}") from None
