"""Requests and responses of file commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional


@dataclass
class FileGetRequest:
    path: Optional[str] = None
    """Relative to the session's working directory, with slashes; links are not followed."""
    pathBytes: Optional[str] = None
    """The bytes of a path that is not UTF-8, in base64; used in place of `path`."""
    offset: Optional[int] = None
    """First byte. The default is 0."""
    length: Optional[int] = None
    """Maximum number of bytes. The default is all."""
    archive: Optional[bool] = None
    """Whether to get a directory as a tar archive of its contents. Without it, a directory is refused."""


@dataclass
class FilePutRequest:
    path: Optional[str] = None
    """The upload replaces an existing file in one step, after its last byte."""
    pathBytes: Optional[str] = None
    sizeBytes: Optional[int] = None
    """Size of the whole file. An upload of another size is refused and replaces nothing."""
    parents: Optional[bool] = None
    """Whether to create missing parent directories. The default is true."""
    more: Optional[bool] = None
    """Whether further parts follow. The answer is then `{upload}`; the next part has `upload` instead of the path."""
    upload: Optional[str] = None
    archive: Optional[bool] = None
    """Whether the bytes are a tar archive to extract into the directory `path`."""


@dataclass
class FileListRequest:
    path: Optional[str] = None
    """A directory. The default is the working directory."""
    pathBytes: Optional[str] = None
    recursive: Optional[bool] = None
    limit: Optional[int] = None
    after: Optional[str] = None
    """The `next` of the previous list."""


@dataclass
class FileDeleteRequest:
    path: Optional[str] = None
    pathBytes: Optional[str] = None
    recursive: Optional[bool] = None
    """Whether to delete a directory with its contents. Without it, only an empty directory can be deleted."""


@dataclass
class FileInfo:
    path: str
    """Bytes that are not UTF-8 are replaced; `pathBytes` then has the exact path."""
    sizeBytes: int
    """0 if it is not a file."""
    modifiedAt: str
    isDirectory: bool
    kind: str
    """`file`, `directory`, `link` (never followed) or `other`."""
    pathBytes: Optional[str] = None


@dataclass
class FileList:
    files: List[FileInfo]
    next: Optional[str] = None
    """Where the next list continues; absent if this one is complete."""
