"""What clients of an older .NET host send beside the protocol of the pipe; the setting `compat` switches it on."""

from __future__ import annotations

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""That of UTF-8. The `StreamWriter` of .NET begins each connection with it."""
