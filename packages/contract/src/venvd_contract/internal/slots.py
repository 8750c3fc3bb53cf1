"""The slots: one memfd that the server makes and seals, with a record of 512 bytes for each session.

The server reads it to watch calls; the session, the warden and the server each write their own fields. Numbers are
little-endian, clocks are `CLOCK_MONOTONIC` in seconds. User code can write anything into it.

| offset | type | field | writer | meaning |
|---|---|---|---|---|
| 0 | u64 | `sequence` | session | number of the running call; one more for each call |
| 8 | f64 | `started` | session | when the running call started |
| 16 | f64 | `deadline` | session | its deadline, 0 for none |
| 24 | u64 | `request` | session | ID of the running request, if it is a whole number |
| 32 | u64 | `connection` | session | the direct connection of the request; 0 for the server's stream |
| 40 | 24 bytes | `command` | session | command of the running call, UTF-8, padded with zeros |
| 64 | u32 | `id_bytes` | session | bytes of the ID at 256; 0 if the ID is in `request` |
| 68 | u32 | `state` | session | `FREE`, `IDLE` or `RUNNING`; written last when a call begins, first when it ends |
| 72 | u64 | `answered` | session | calls answered |
| 80 | u64 | `failed` | session | of these, answered with an error |
| 88 | u64 | `handles` | session | handles held |
| 96 | u64 | `bytes_in` | session | bytes received from direct clients |
| 104 | u64 | `bytes_out` | session | bytes sent to direct clients |
| 112 | u64 | `direct_answered` | session | calls of direct clients answered |
| 120 | u64 | `direct_failed` | session | of these, answered with an error |
| 128 | u32 | `stop_reason` | warden | why `stop_sequence` must stop: `TIMEOUT` or `CANCELLED` |
| 136 | u64 | `stop_sequence` | warden | the call to stop; written before SIGINT is sent |
| 144 | u64 | `withdrawn` | server | number of the server's request that the session must not begin |
| 152 | u64 | `heartbeat` | session | the last number that the server asked it to write |
| 160 | u8 | `spins` | session | 1 while its waits may spin (`venvd_contract.spinning`) |
| 256 | 256 bytes | `id` | session | request ID as JSON, if it is not a whole number |
"""

from __future__ import annotations

import struct

SIZE = 512
FREE, IDLE, RUNNING = 0, 1, 2
TIMEOUT, CANCELLED = 1, 2
STOP_REASONS = {"timeout": TIMEOUT, "cancelled": CANCELLED}
COMMAND_BYTES = 24
ID_BYTES = 256

_FIELDS = (
    ("sequence", 0, "Q"), ("started", 8, "d"), ("deadline", 16, "d"), ("request", 24, "Q"), ("connection", 32, "Q"),
    ("command", 40, "24s"), ("id_bytes", 64, "I"), ("state", 68, "I"), ("answered", 72, "Q"), ("failed", 80, "Q"),
    ("handles", 88, "Q"), ("bytes_in", 96, "Q"), ("bytes_out", 104, "Q"), ("direct_answered", 112, "Q"),
    ("direct_failed", 120, "Q"), ("stop_reason", 128, "I"), ("stop_sequence", 136, "Q"), ("withdrawn", 144, "Q"),
    ("heartbeat", 152, "Q"), ("spins", 160, "B"), ("id", 256, "256s"),
)  # fmt: skip
AT = {name: offset for name, offset, _ in _FIELDS}
"""Offsets by field."""


def record(first: str, last: str) -> struct.Struct:
    """Return the layout of the fields from `first` to `last`; it is written and read at `AT[first]`."""
    parts, end = ["<"], AT[first]
    for _, offset, code in _FIELDS:
        if AT[first] <= offset <= AT[last]:
            parts.append("{}x{}".format(offset - end, code))
            end = offset + struct.calcsize("<" + code)
    return struct.Struct("".join(parts))


BEGIN = record("sequence", "state")
"""The fields that a session writes in one piece when a call begins: `state` comes last."""
END = record("state", "direct_failed")
"""The fields that it writes in one piece when a call ends: `state` comes first."""
READ = record("sequence", "heartbeat")
"""The fields that the server reads in one piece."""
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
