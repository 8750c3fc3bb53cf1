"""The internal protocol: what the server and the worker host of one backend say to each other, declared once.

Both sides import this package, which is part of the worker's archive. A change to anything in it raises `PROTOCOL`.

The server connects to `SOCKET`, which the warden listens on in the channel's directory, and says `hello`.

| path | form | declared in |
|---|---|---|
| control connection, server ↔ warden | `SOCK_SEQPACKET`, JSON and descriptors | `control`, `messages` |
| slots, all ↔ all | shared memory, 512 bytes a session | `slots` |
| stream, server ↔ session | the pipe's framing | `venvd_contract.framing`, and the lines below |
| segments, session ↔ server or client | sealed memfds that carry arrays | `segments` |
| file transfer, server ↔ file process | a byte for the kind, four for the length, content | `file_transfer` |
| limits and environment of a session | fields of `start` | `limits`, `environment` |

On a session's stream the server sends three lines besides requests, which are not answered:

| line | meaning |
|---|---|
| `{"heartbeat": number}` | write this number into the slot, to show that the session is not stuck |
| `{"segments": {"free": [names]}}` | the server is done with these segments; they may be lent again |
| `{"segments": {"drop": [names]}}` | a client that left may still see these segments; they must not be lent again |
"""

from __future__ import annotations

PROTOCOL = 2
"""The version of all of this. The warden refuses a `hello` of another version."""
SOCKET = "warden.sock"
