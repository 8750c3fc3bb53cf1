"""A small real program that tests connect to: a warden whose sessions behave or misbehave as requests say.

Run as `python peer.py CHANNEL [TRAIT …]`. Traits of the warden: `refuses` (starts no session), `stillborn` (sessions
exit before they are up), `mute` (answers nothing), `babbles` (sends what is no packet), `passes` (sends a descriptor
with each answer), `full` (its sessions take no direct clients), `deaf` (they take them, and read nothing), `limits` (it
was about to end a session for a limit when it is asked to).
A session does what the payload's `do` says: see `DEEDS`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

SLOT = 512


class Stopped(BaseException):
    pass


# ---- the session -----------------------------------------------------------------------------------------------


class Session:
    def __init__(self, ends: list[int], slots: mmap.mmap, index: int) -> None:
        self.sock, self.supply = (socket.socket(fileno=end) for end in ends)
        self.slots = slots
        self.at = index * SLOT
        self.sequence = 0
        self.request = None
        self.kept = 0
        self.told = []
        self.extra = {}

    def put(self, offset: int, form: str, value: float) -> None:
        struct.pack_into("<" + form, self.slots, self.at + offset, value)

    def stop_reason(self) -> str:
        (reason,) = struct.unpack_from("<I", self.slots, self.at + 128)
        (stop,) = struct.unpack_from("<Q", self.slots, self.at + 136)
        return {1: "timeout", 2: "cancelled"}.get(reason, "cancelled") if stop == self.sequence else ""

    def on_sigint(self, *_: object) -> None:
        if self.request is not None and self.stop_reason():
            raise Stopped

    def say(self, message: dict) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def run(self) -> None:
        signal.signal(signal.SIGINT, self.on_sigint)
        self.put(68, "I", 1)
        with self.sock.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                if "command" not in request:
                    self.told.append(request)
                    continue
                sizes = request.get("attachments", [])
                self.answer(request, [lines.read(size) for size in sizes])

    def answer(self, request: dict, attachments: list[bytes]) -> None:
        payload = request["payload"]
        deed = payload.get("handleId", "").partition(" ")[0] or payload.get("do", "echo")
        self.request = request
        self.sequence += 1
        self.put(0, "Q", self.sequence)
        if deed != "hides":
            self.put(24, "Q", request["id"])
            self.put(68, "I", 2)
        try:
            result = DEEDS[deed](self, payload, attachments)
            reply = {"result": result, **self.extra}
            self.extra = {}
        except Stopped:
            reply = {"error": "stopped", "code": self.stop_reason()}
        except ArithmeticError as error:
            reply = {"error": str(error), "code": "user_error", "errorType": type(error).__name__, "traceback": "…"}
        self.put(68, "I", 1)
        self.request = None
        if deed != "says" and reply.get("result") != "nothing":
            self.say({"id": request["id"], **reply})


def sleeps(session: Session, payload: dict, _: list[bytes]) -> object:
    time.sleep(payload.get("seconds", 60))
    return {"slept": True}


def will_not_stop(session: Session, payload: dict, _: list[bytes]) -> object:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            time.sleep(60)
        except Stopped:
            continue


def dies(session: Session, payload: dict, _: list[bytes]) -> object:
    if "status" in payload:
        os._exit(payload["status"])
    os.kill(os.getpid(), payload["signal"])


def says(session: Session, payload: dict, _: list[bytes]) -> object:
    """Sends `text` as it is, `times` times, with `{id}` replaced."""
    raw = payload["text"].replace("{id}", str(session.request["id"])).encode("latin-1")
    for _ in range(payload.get("times", 1)):
        session.sock.sendall(raw)


def closes(session: Session, payload: dict, _: list[bytes]) -> object:
    session.sock.shutdown(socket.SHUT_RDWR)
    time.sleep(60)


def streams(session: Session, payload: dict, _: list[bytes]) -> object:
    for event, data in payload["events"]:
        session.say({"id": session.request["id"], "event": event, "data": data})
    return {"streamed": session.request.get("stream", False)}


def counts(session: Session, payload: dict, _: list[bytes]) -> object:
    session.kept += 1
    return {"count": session.kept, "pid": os.getpid(), "env": os.environ.get("TOLD")}


def fails(session: Session, payload: dict, _: list[bytes]) -> object:
    return 1 / 0


def echoes(session: Session, payload: dict, attachments: list[bytes]) -> object:
    return {"request": session.request, "attachments": [len(part) for part in attachments]}


def fetches(session: Session, size: int) -> tuple[dict, list[int]]:
    """Asks the server for a segment."""
    session.supply.send(json.dumps({"want": size}).encode())
    answer, descriptors, _, _ = socket.recv_fds(session.supply, 1 << 16, 4)
    return json.loads(answer), descriptors


def shares(session: Session, payload: dict, _: list[bytes]) -> object:  # noqa: C901 - a list of lies
    """Answers `array.get` with a segment; the handle says in what way it is no good."""
    kind = payload["handleId"].split()[1]
    size = 1 << 20
    if kind == "refused":
        return {"said": fetches(session, 1 << 30)[0], "then": fetches(session, 0)[0]}
    if kind == "many":
        return {"made": [fetches(session, 4096)[0].get("code", "made") for _ in range(66)]}
    if kind == "garbage":
        session.supply.send(b"[1, 2")
    if kind == "greedy":
        for _ in range(64):
            session.supply.send(json.dumps({"want": size}).encode())
    if kind == "outward":
        socket.send_fds(session.supply, [json.dumps({"gone": []}).encode()], [os.memfd_create("outward")])
    name = "seg-unknown"
    if kind not in {"unknown", "garbage", "greedy"}:
        answer, (descriptor,) = fetches(session, 4096 if kind == "small" else size)
        name = answer["name"]
        if kind not in {"hole", "small"}:
            os.posix_fallocate(descriptor, 0, size)
            os.pwrite(descriptor, b"\x07" * size, 0)
        if kind == "punched":
            ctypes.CDLL(None).fallocate(descriptor, 3, ctypes.c_long(0), ctypes.c_long(size))
        if kind == "gone":
            session.supply.send(json.dumps({"gone": [name]}).encode())
            time.sleep(0.2)
        if kind == "shrunk":
            with contextlib.suppress(PermissionError):
                os.ftruncate(descriptor, 0)
        os.close(descriptor)
    shape = [1 << 40] if kind == "huge" else [-1] if kind == "negative" else [size // 8]
    return {"dtype": "O" if kind == "object" else "<f8", "shape": shape, "order": "C", "segment": name, "size": size}


def attaches(session: Session, payload: dict, _: list[bytes]) -> object:
    """Answers `array.get` with an attachment of another length than it says."""
    session.sock.sendall(
        b'{"id":%d,"result":{"dtype":"<f8","shape":[3],"order":"C"},"attachments":[8]}\n12345678'
        % session.request["id"]
    )
    return "nothing"


def ends_warden(session: Session, payload: dict, _: list[bytes]) -> object:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


DEEDS = {
    "share": shares,
    "attach": attaches,
    "told": lambda session, *_: {"told": session.told},
    "echo": echoes,
    "count": counts,
    "sleep": sleeps,
    "stubborn": will_not_stop,
    "hides": sleeps,
    "die": dies,
    "says": says,
    "close": closes,
    "stream": streams,
    "fail": fails,
    "silent": lambda *_: "nothing",
    "end warden": ends_warden,
}


# ---- the warden ------------------------------------------------------------------------------------------------


class Warden:
    def __init__(self, control: socket.socket, traits: set[str]) -> None:
        self.control = control
        self.traits = traits
        self.pids: dict[str, int] = {}
        self.why: dict[str, str] = {}
        self.kills: list[tuple[float, str, int]] = []
        self.index: dict[str, int] = {}
        self.slots: mmap.mmap | None = None

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.control], [], [], 0.01)
            if ready:
                packet, descriptors, _, _ = socket.recv_fds(self.control, 1 << 20, 8)
                if not packet:
                    break
                self.packet(json.loads(packet), descriptors)
            self.reap()
            self.overdue()
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)

    def packet(self, request: dict, descriptors: list[int]) -> None:
        if "mute" in self.traits:
            return
        if "babbles" in self.traits:
            self.control.send(b"[1, 2")
            return
        try:
            result = getattr(self, "do_" + request["command"])(request["data"], descriptors)
            reply = {"id": request["id"], "result": result}
        except KeyError as error:
            reply = {"id": request["id"], "error": f"no session {error}", "code": "not_found"}
        except RuntimeError as error:
            reply = {"id": request["id"], "error": str(error), "code": "unavailable"}
        if request["command"] != "hello":  # its descriptor is mapped
            for descriptor in descriptors:
                os.close(descriptor)
        passed = [sys.stdout.fileno()] if "passes" in self.traits else []
        socket.send_fds(self.control, [json.dumps(reply).encode()], passed)

    def do_hello(self, request: dict, descriptors: list[int]) -> dict:
        self.slots = mmap.mmap(descriptors[0], request["slots"] * SLOT)
        attach = bool({"full", "deaf"} & self.traits)
        return {"worker": "peer", "python": sys.version.split()[0], "pid": os.getpid(), "attach": attach}

    def do_attach(self, _request: dict, _: list[int]) -> dict:
        if "deaf" in self.traits:
            return {}
        raise RuntimeError("it takes no clients at this moment")

    def do_start(self, request: dict, ends: list[int]) -> dict:
        if "refuses" in self.traits:
            raise RuntimeError("there is no interpreter here")
        pid = os.fork()
        if pid == 0:
            self.control.close()
            os.environ.update(request["env"])
            if "stillborn" in self.traits:
                os._exit(3)
            try:
                Session(ends, self.slots, request["slot"]).run()
            finally:
                os._exit(0)
        name = request["session"]
        self.pids[name], self.index[name] = pid, request["slot"]
        if request["standby"]:
            self.control.send(json.dumps({"event": "up", "data": {"session": name, "pid": pid}}).encode())
        return {"pid": pid}

    def do_assign(self, request: dict, _: list[int]) -> dict:
        for table in (self.pids, self.index):
            table[request["name"]] = table.pop(request["session"])
        return {}

    def do_interrupt(self, request: dict, _: list[int]) -> dict:
        pid, at = self.pids[request["session"]], self.index[request["session"]] * SLOT
        struct.pack_into("<I", self.slots, at + 128, {"timeout": 1, "cancelled": 2}[request["reason"]])
        struct.pack_into("<Q", self.slots, at + 136, request["sequence"])
        os.kill(pid, signal.SIGINT)
        self.kills.append((time.monotonic() + request["grace"], request["session"], request["sequence"]))
        return {}

    def do_kill(self, request: dict, _: list[int]) -> dict:
        name = request["session"]
        self.why[name] = "processes" if "limits" in self.traits else "kill"
        os.kill(self.pids[name], signal.SIGKILL)
        self.gone(name, os.waitpid(self.pids[name], 0)[1])
        return {}

    def do_stats(self, _request: dict, _: list[int]) -> dict:
        return {"sessions": {name: {"rssBytes": 1000} for name in self.pids}, "warden": {"rssBytes": 500}}

    def overdue(self) -> None:
        late = [entry for entry in self.kills if entry[0] <= time.monotonic()]
        for entry in late:
            self.kills.remove(entry)
            _, name, sequence = entry
            if name in self.pids:
                state, running = (
                    struct.unpack_from("<I", self.slots, self.index[name] * SLOT + 68)[0],
                    struct.unpack_from("<Q", self.slots, self.index[name] * SLOT)[0],
                )
                if state == 2 and running == sequence:
                    self.why[name] = "interrupt"
                    os.kill(self.pids[name], signal.SIGKILL)

    def reap(self) -> None:
        for name, pid in list(self.pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.gone(name, status)

    def gone(self, name: str, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        how = f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"
        reason = self.why.pop(name, "exit" if code >= 0 else "signal")
        if reason == "processes":
            how = "had more processes than its limit of 16"
        data = {"session": name, "pid": self.pids.pop(name), "how": how, "reason": reason}
        self.control.send(json.dumps({"event": "exited", "data": data}).encode())


def main() -> None:
    channel, traits = Path(sys.argv[1]), set(sys.argv[2:])
    while not (channel / "warden.secret").exists():
        time.sleep(0.01)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(str(channel / "warden.sock"))
    control.send(json.dumps({"event": "join", "data": {"secret": (channel / "warden.secret").read_text()}}).encode())
    Warden(control, traits).serve()


if __name__ == "__main__":
    main()
