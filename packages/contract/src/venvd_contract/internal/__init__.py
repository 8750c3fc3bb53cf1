"""The internal protocol between the server and the worker host of one backend.

Both sides import this package, and the worker's archive contains it. A change to anything in it raises `PROTOCOL`.

The server listens on `SOCKET` in the channel's directory, which the worker host mounts read-only. It writes a secret to
`SECRET` beside it. The warden reads the secret, connects, and sends `join` with it, before it starts any other process.
The server accepts the first connection with the right secret, removes both files, creates `TAKEN` and sends `hello`. A
channel serves one pair of server and warden: when their connection ends, the warden ends, and the pair is replaced.

Descriptors travel only to the worker host. The server makes every socket pair and every segment, and sends the worker
host its ends. It accepts none.

| path | form | declared in |
|---|---|---|
| control connection, server ↔ warden | `SOCK_SEQPACKET`, JSON and descriptors | `control`, `messages` |
| slots, all ↔ all | shared memory, 512 bytes a session | `slots` |
| stream, server ↔ session | the pipe's framing | `venvd_contract.framing`, and the lines below |
| supply of segments, server ↔ session | `SOCK_SEQPACKET`, JSON and sealed memfds that carry arrays | `segments` |
| file transfer, server ↔ file process | a byte for the kind, four for the length, content | `file_transfer` |
| limits and environment of a session | fields of `start` | `limits`, `environment` |

On a session's stream the server sends one request at a time and waits for its reply. `id` is a number:

| line | sent by | fields |
|---|---|---|
| request | server | `id`, `command`, `payload`; if needed `values`, `stream`, `lease`, `attachments` |
| event | session | `id`, `event`, `data`; only if the request has `"stream": true` |
| reply | session | `id`, `result`, `attachments`, or `id`, `error` and the other fields of an error |

The result of `tofloatarray` and `tofloatarray2d` is their JSON. Long JSON is in a segment: the result is then the
description of its bytes, `{dtype, shape, order, segment, size}`.

The session validates payloads. The server treats every reply as hostile input. It also sends lines without a reply:

| line | meaning |
|---|---|
| `{"heartbeat": number}` | write this number into the slot, to show that the session is not stuck |
| `{"segments": {"free": [names]}}` | the server no longer uses these segments; the session may reuse them |
| `{"segments": {"drop": [names]}}` | a former client may still map these segments; the session must not reuse them |
"""

from __future__ import annotations

PROTOCOL = 8
"""The version of all of this. The warden refuses a `hello` of another version."""
SOCKET = "warden.sock"
SECRET = "warden.secret"  # noqa: S105 - the name of a file
EGRESS = "egress.sock"
"""The socket of the egress broker, where user code has one: see `venvd_egress`."""
TAKEN = "taken"
"""Shows that the channel has had its warden."""
