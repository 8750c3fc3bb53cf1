"""The internal protocol, byte by byte: a change here raises `PROTOCOL`."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest
from venvd_contract.internal import (
    PROTOCOL,
    SECRET,
    SOCKET,
    TAKEN,
    control,
    environment,
    file_transfer,
    messages,
    segments,
    slots,
)
from venvd_contract.internal.limits import merge_limits, parse_limits
from venvd_contract.session_requests import Limits


def test_the_version() -> None:
    """The warden finds the server at this socket, and both speak this version."""
    assert (PROTOCOL, SOCKET, SECRET, TAKEN) == (8, "warden.sock", "warden.secret", "taken")


def test_slots() -> None:
    """A slot is 512 bytes, with each field at its offset."""
    assert slots.SIZE == 512
    assert slots.AT == {
        "sequence": 0, "started": 8, "deadline": 16, "request": 24, "connection": 32, "command": 40, "id_bytes": 64,
        "state": 68, "answered": 72, "failed": 80, "handles": 88, "bytes_in": 96, "bytes_out": 104,
        "direct_answered": 112, "direct_failed": 120, "stop_reason": 128, "stop_sequence": 136, "withdrawn": 144,
        "heartbeat": 152, "spins": 160, "id": 256,
    }  # fmt: skip
    assert (slots.FREE, slots.IDLE, slots.RUNNING, slots.TIMEOUT, slots.CANCELLED) == (0, 1, 2, 1, 2)


def test_what_a_slot_holds_in_a_call() -> None:
    """The pieces that a session writes are little-endian, without padding of the compiler's."""
    begin = slots.BEGIN.pack(1, 2.0, 3.0, 4, 5, b"eval", 6, slots.RUNNING)
    assert begin.hex() == (
        "0100000000000000" "0000000000000040" "0000000000000840" "0400000000000000" "0500000000000000"
        "6576616c" + "00" * 20 + "06000000" "02000000"
    )  # fmt: skip
    end = slots.END.pack(slots.IDLE, 1, 2, 3, 4, 5, 6, 7)
    assert end.hex() == "01000000" + "".join("{:02x}00000000000000".format(number) for number in range(1, 8))
    memory = bytearray(begin[: slots.AT["state"]] + end).ljust(slots.SIZE, b"\0")
    slots.U64.pack_into(memory, slots.AT["heartbeat"], 9)
    assert slots.READ.unpack_from(memory) == (
        1, 2.0, 3.0, 4, 5, b"eval".ljust(slots.COMMAND_BYTES, b"\0"), 6, slots.IDLE, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 9
    )  # fmt: skip


def test_file_transfers() -> None:
    """A message begins with its kind and its length, big-endian."""
    assert file_transfer.HEAD.pack(file_transfer.DATA, 258) == b"d\0\0\1\2"
    assert (file_transfer.RESULT, file_transfer.ERROR, file_transfer.END) == (b"r", b"e", b"z")
    assert (file_transfer.LARGEST_DATA, file_transfer.LARGEST_ANSWER) == (4 << 20, 32 << 20)


MESSAGES = {
    "hello": '{"protocol": 2, "slots": 4, "grace": 2.0, "spin": 0}',
    "start": '{"session": "a", "slot": 1, "limits": {"handles": 5}, "env": {"A": "1"}, "lease": 0.0, "compat": true, '
    '"standby": true, "cwd": "sub"}',
    "assign": '{"session": "standby-1", "name": "a"}',
    "interrupt": '{"session": "a", "sequence": 7, "reason": "timeout", "grace": null}',
    "kill": '{"session": "a", "reason": "no reason given"}',
    "attach": '{"session": "a", "terms": {"connection": 1}}',
    "venvs": '{"session": "a", "source": "pass"}',
    "file": '{"session": "a", "command": "file.get", "largest": 9, "payload": {"path": "x"}, "timeout": 86400.0}',
    "stats": "{}",
    "up": '{"session": "a", "pid": 5}',
    "exited": '{"session": "a", "pid": 5, "how": "ended", "reason": "exit", "exitCode": 0, "signal": null}',
    "join": '{"secret": "s"}',
    "refused": '{"session": "a", "connection": 3, "why": "too many"}',
    "zygote": '{"state": "ready", "why": "", "preload": [{"module": "m", "seconds": 0.5, "error": null}], "pid": 6}',
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    """Commands and events have these fields in JSON."""
    fields = json.loads(MESSAGES[name])
    kind = {**messages.COMMANDS, **messages.EVENTS}[name]
    assert json.dumps(asdict(kind(**fields))) == MESSAGES[name]


def test_every_message_is_held() -> None:
    """No command and no event is missing above."""
    assert set(MESSAGES) == {*messages.COMMANDS, *messages.EVENTS}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("start", {}, '"session" is missing'),
        ("start", {"session": "a", "slot": -1}, '"slot" takes a number from 0 on'),
        ("start", {"session": "a", "slot": 1, "env": {"A": 1}}, "an object of strings"),
        ("hello", {"protocol": 2, "slots": 1, "grace": float("inf")}, "grace"),
        ("kill", [], "JSON object"),
    ],
)
def test_commands_that_are_refused(name: str, data: Any, said: str) -> None:
    """A field that is missing or wrong is named."""
    with pytest.raises(InvalidRequest, match=said):
        messages.parse(messages.COMMANDS[name], data)


def test_a_packet_carries_descriptors() -> None:
    """A packet comes in one piece with its descriptors, which are closed on exec."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed = segments.create_sealed("passed", 8)
    with one, other:
        one.sendmsg([b"{}"], control.rights([passed]))
        one.sendmsg([b"{}"], control.rights([]))
        packet = control.receive(other)
        assert (packet.data, packet.truncated, packet.descriptors_lost) == (b"{}", False, False)
        assert os.fstat(packet.descriptors[0]).st_ino == os.fstat(passed).st_ino
        assert not os.get_inheritable(packet.descriptors[0])
        assert control.receive(other).descriptors == []
        control.close_descriptors([passed, *packet.descriptors, *packet.descriptors])
        one.close()
        assert control.receive(other).data == b""


def test_sealed_memory() -> None:
    """Its size is what it was made with, for every holder and for good."""
    descriptor = segments.create_sealed("sealed", 4096)
    assert segments.is_sealed(descriptor)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    os.close(descriptor)
    plain = os.memfd_create("plain", os.MFD_ALLOW_SEALING)
    assert not segments.is_sealed(plain)
    os.close(plain)
    read, write = os.pipe()
    assert not segments.is_sealed(read)
    control.close_descriptors([read, write])


def test_limits() -> None:
    """A client's null keeps the default, and the server's is no limit; both refuse what is no limit."""
    assert merge_limits(Limits(memoryBytes=5), {"memoryBytes": None, "handles": 0}) == Limits(memoryBytes=5, handles=0)
    assert parse_limits({"handles": None, "cpuSeconds": 3}) == Limits(handles=None, cpuSeconds=3)
    for wrong in ({"colour": 1}, {"memoryBytes": 0}, {"handles": True}, {"handles": 1.5}, {"handles": 2**60}):
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            merge_limits(Limits(), wrong)
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            parse_limits(wrong)


def test_environments() -> None:
    """A session adds any variable that a process can have; a venv declares plain names that are not reserved."""
    environment.check_session({"a-b": "1", "VENVD_X": "1"})
    environment.check_declared({"A": "line\nline"})
    for name, value in (("", "1"), ("a=b", "1"), ("A", "\0"), ("A", "\n"), ("A", "x" * environment.LARGEST_OF_SESSION)):
        with pytest.raises(InvalidRequest, match="env: "):
            environment.check_session({name: value})
    for name, value in (("a-b", "1"), ("VENVD_X", "1"), ("A", "\0"), ("A", "x" * (environment.LONGEST_DECLARED + 1))):
        with pytest.raises(InvalidRequest, match="env"):
            environment.check_declared({name: value})
    with pytest.raises(InvalidRequest, match="200"):
        environment.check_declared({"A{}".format(number): "" for number in range(201)})


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "LANG", "LC_ALL", "OMP_NUM_THREADS", "MY_NUM_THREADS"])
def test_variables_that_are_read_at_start(name: str) -> None:
    """A session with one of these is no fork."""
    assert environment.needs_new_interpreter(["A", name])
    assert not environment.needs_new_interpreter(["A", "MY_" + name[:4]])
