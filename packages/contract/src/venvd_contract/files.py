"""What is asked and answered about the files of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional


@dataclass
class FileGetRequest:
    path: Optional[str] = None
    """Relative to the session's working directory, with slashes; links are not followed."""
    pathBytes: Optional[str] = None
    """In place of the path: its bytes in base64, for names that are no UTF-8."""
    offset: Optional[int] = None
    """First byte; absent is 0."""
    length: Optional[int] = None
    """Bytes at most; absent is all that is there."""


@dataclass
class FilePutRequest:
    path: Optional[str] = None
    """What is there already is replaced, in one step, when the last byte has come."""
    pathBytes: Optional[str] = None
    sizeBytes: Optional[int] = None
    """What the whole file has; one that turns out to have another size is refused, and nothing is replaced."""
    parents: Optional[bool] = None
    """Whether directories on the way are made; absent is yes."""
    more: Optional[bool] = None
    """Whether further parts follow: the answer is then `{upload}`, which the next part names in place of the path."""
    upload: Optional[str] = None


@dataclass
class FileListRequest:
    path: Optional[str] = None
    """A directory; absent is the working directory itself."""
    pathBytes: Optional[str] = None
    recursive: Optional[bool] = None
    limit: Optional[int] = None
    after: Optional[str] = None
    """`next` of the list before."""


@dataclass
class FileDeleteRequest:
    path: Optional[str] = None
    pathBytes: Optional[str] = None
    recursive: Optional[bool] = None
    """Whether a directory goes with all that is in it; without it, only if it is empty."""


@dataclass
class FileInfo:
    path: str
    """What is no UTF-8 in it is replaced, and `pathBytes` has it exactly."""
    sizeBytes: int
    """0 for what is no file."""
    modifiedAt: str
    isDirectory: bool
    kind: str
    """`file`, `directory`, `link` (never followed) or `other`."""
    pathBytes: Optional[str] = None


@dataclass
class FileList:
    files: List[FileInfo]
    next: Optional[str] = None
    """Where the next list begins; absent where this one is whole."""
