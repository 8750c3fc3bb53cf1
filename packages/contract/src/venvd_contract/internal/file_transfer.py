"""The messages between the server and a file process, over a stream socketpair.

Each message is a byte for its kind, four for its length (big-endian), and that many bytes.

| kind | sent by | content |
|---|---|---|
| `r` | file process | a result, JSON |
| `e` | file process | an error, JSON as in every reply; nothing follows |
| `d` | server | data of a file |
| `z` | server | the end of the data; no content |

| command | exchange |
|---|---|
| `file.get` | `r {info, offset, length}`, then `length` raw bytes |
| `file.get` of an archive | the same, with the bytes of the archive |
| `file.put` | `r {}` when it is ready; the server sends `d`… and `z`; then `r` with the file's info |
| `file.list`, `file.delete` | `r` |

If the connection ends early, the file process undoes the command.
"""

from __future__ import annotations

import struct

COMMANDS = ("file.get", "file.put", "file.list", "file.delete")
RESULT, ERROR, DATA, END = b"r", b"e", b"d", b"z"
HEAD = struct.Struct("!cI")
LARGEST_DATA = 4 << 20
"""Bytes of one `d`."""
LARGEST_ANSWER = 32 << 20
"""Bytes of one `r` or `e`."""
MOST_TRANSFERS = 32
"""File processes of one worker host at a time."""
