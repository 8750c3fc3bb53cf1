"""The byte order mark that older .NET clients send before their first line; the setting `compat` allows it."""

from __future__ import annotations

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""The mark of UTF-8. The `StreamWriter` of .NET begins each connection with it."""
