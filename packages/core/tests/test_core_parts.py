"""Settings, limits, slots and metrics."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import struct
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from venvd_contract import errors
from venvd_contract.internal import SOCKET
from venvd_contract.internal.limits import merge_limits
from venvd_contract.internal.slots import SIZE
from venvd_contract.session_requests import Limits
from venvd_core import program
from venvd_core.settings import BackendSettings, WrongSettings, read
from venvd_core.slots import Slots


def test_settings_without_a_token_are_refused() -> None:
    """A missing digest is an error unless VENVD_NO_TOKEN is set."""
    with pytest.raises(WrongSettings, match="VENVD_NO_TOKEN=1"):
        read(BackendSettings, {})
    assert read(BackendSettings, {"VENVD_NO_TOKEN": "1"}).token_sha256 == ""


def test_a_program_with_bad_settings_says_which() -> None:
    """Each wrong variable is named in a sentence of its own, and the status is 2."""
    environment = {"VENVD_QUEUE_LIMIT": "-1", "VENVD_NO_TOKEN": "1", "VENVD_SESSION_LIMITS": '{"memory": 3}'}
    code = "from venvd_core.settings import *; load(BackendSettings)"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "VENVD_QUEUE_LIMIT: " in ended.stderr
    assert 'VENVD_SESSION_LIMITS: the limit "memory" is unknown' in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("VENVD_GRACE", "soon", "float"),
        ("VENVD_GRACE", "0", "> 0"),
        ("VENVD_MAX_SESSIONS", "5000", "<= 4096"),
        ("VENVD_MAX_SESSIONS", "1.5", "int"),
        ("VENVD_ATTACH", "perhaps", "neither true nor false"),
        ("VENVD_TOKEN_SHA256", "secret", "matching regex"),
        ("VENVD_LOG_LEVEL", "loud", "enum value 'loud'"),
        ("VENVD_SESSION_LIMITS", "7", "a map of limits"),
        ("VENVD_SESSION_LIMITS", "{", "not JSON"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_reason(variable: str, text: str, reason: str) -> None:
    """The sentence about a wrong variable says what the setting takes."""
    with pytest.raises(WrongSettings, match=f"^{variable}: .*{reason}"):
        read(BackendSettings, {"VENVD_NO_TOKEN": "1", variable: text})


def test_settings_have_the_types_of_their_fields() -> None:
    """Numbers, flags, words, paths and choices are read from the text of their variables."""
    settings = read(
        BackendSettings,
        {
            "VENVD_NO_TOKEN": "yes",
            "VENVD_GRACE": "2.5",
            "VENVD_ATTACH": "False",
            "VENVD_MAX_SESSIONS": "7",
            "VENVD_OWN_HOSTS": "a, b c",
            "VENVD_KEYS_FILE": "/run/keys",
            "VENVD_LOG_LEVEL": "debug",
            "VENVD_UNKNOWN": "1",
        },
    )
    assert (settings.no_token, settings.grace, settings.attach, settings.max_sessions) == (True, 2.5, False, 7)
    assert (settings.own_hosts, settings.keys_file, settings.log_level) == (("a", "b", "c"), Path("/run/keys"), "debug")


def test_a_server_listens_in_the_channel_before_it_imports_its_transport(run: Any, channel: Path) -> None:
    """The warden joins, and starts the zygote, while the server imports what it needs for its clients."""
    listened = []

    def import_server() -> Any:
        listened.append((channel / SOCKET).is_socket())
        raise errors.Unavailable("this test has no transport")

    async def work() -> None:
        settings = read(BackendSettings, {"VENVD_NO_TOKEN": "1", "VENVD_CHANNEL": str(channel)})
        with pytest.raises(errors.Unavailable, match="no transport"):
            await program.serve(settings, import_server)

    run(work)
    assert listened == [True]


def test_settings_do_not_change() -> None:
    """The settings of a process are those that `main()` has read."""
    settings = read(BackendSettings, {"VENVD_NO_TOKEN": "1"})
    with pytest.raises(AttributeError):
        settings.grace = 3.0  # type: ignore[misc]


def test_limits_of_the_environment_are_defaults() -> None:
    """`VENVD_SESSION_LIMITS` changes the limits it names, and no others."""
    environment = {"VENVD_NO_TOKEN": "1", "VENVD_SESSION_LIMITS": '{"memoryBytes": 1000}'}
    limits = read(BackendSettings, environment).session_limits
    assert limits == Limits(memoryBytes=1000)


def test_null_keeps_a_default_limit() -> None:
    """Absent and null are the same in what a client asks for."""
    defaults = Limits(memoryBytes=5)
    assert merge_limits(defaults, {"memoryBytes": None, "handles": 0}) == Limits(memoryBytes=5, handles=0)


def test_slots_cannot_change_their_size() -> None:
    """A holder of the descriptor can neither grow nor shrink the memory, nor remove the seals."""
    slots = Slots(4)
    for size in (0, 4 * SIZE - 1, 8 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(slots.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(slots.fd, 1033, 0x0008)
    slots.close()


def test_whatever_is_in_a_slot_can_be_read() -> None:
    """Wild values come out bounded, and a slot is empty after it was cleared."""
    slots = Slots(2)
    os.pwrite(slots.fd, b"\xff" * SIZE, SIZE)
    wild = slots.read(1)
    assert wild.state == 0
    assert wild.handles == 2**53
    os.pwrite(slots.fd, struct.pack("<Q60xI", 7, 2), SIZE)
    assert (slots.read(1).state, slots.read(1).sequence) == (2, 7)
    slots.clear(1)
    assert (slots.read(1).state, slots.read(1).sequence) == (0, 0)
    slots.close()


def test_what_happened_is_counted(run: Any, wardens: Any, serve: Any) -> None:
    """Requests by command and outcome, restarts by cause, sessions, queue and memory are in the metrics."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            await client.do("count")
            for _ in range(2):
                with pytest.raises(errors.UserError):
                    await client.do("fail")
            with pytest.raises(errors.SessionLost):
                await client.do("die", status=1)
            with pytest.raises(errors.InvalidRequest):
                await client.command("made-up-" + "x" * 100)
            await client.do("count")
            running, waiting = client.begin("sleep"), client.begin("count")
            await client.backend.refresh()
            text = client.backend.metrics().decode()
            lines = text.splitlines()
            for line in (
                'venvd_requests_total{command="eval",outcome="ok"} 2.0',
                'venvd_requests_total{command="eval",outcome="user_error"} 2.0',
                'venvd_requests_total{command="eval",outcome="session_lost"} 1.0',
                'venvd_requests_total{command="unknown",outcome="invalid_request"} 1.0',
                'venvd_request_duration_seconds_count{command="eval"} 5.0',
                'venvd_worker_restarts_total{cause="exit"} 1.0',
                "venvd_requests_in_flight 1.0",
                "venvd_queue_depth 1.0",
                'venvd_sessions{state="busy"} 1.0',
                'venvd_worker_memory_bytes{part="sessions"} 1000.0',
                'venvd_worker_memory_bytes{part="warden"} 500.0',
            ):
                assert line in lines
            running.cancel()
            waiting.cancel()
            await asyncio.sleep(0)

    run(work)


def test_a_session_that_was_asked_to_end_is_no_restart(run: Any, wardens: Any, serve: Any) -> None:
    """Deleting a session counts nothing; resetting one counts as `reset`, and its process dying by its cause."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            await client.command("session.create", name="a")
            await client.do("count", request={"session": "a"})
            await client.command("session.delete", id="a")
            await client.command("session.reset", id="default")
            lines = client.backend.metrics().decode().splitlines()
            counted = {line for line in lines if line.startswith("venvd_worker_restarts_total{")}
            assert {line for line in counted if not line.endswith(" 0.0")} == {
                'venvd_worker_restarts_total{cause="reset"} 1.0'
            }
            assert 'venvd_worker_restarts_total{cause="memory"} 0.0' in counted

    run(work)


def test_attachments_count_as_bytes(run: Any, wardens: Any, serve: Any) -> None:
    """What is received and sent is counted with the attachments that travel behind the line."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = _bytes(client)
            says = {"do": "says", "text": '{"id":{id},"result":{},"attachments":[3,0,2]}\nabcde'}
            await client.begin(**says, request={"attachments": [b"x" * 1000, b"y" * 500]})
            after = _bytes(client)
            grown = {name: after[name] - before[name] for name in after}
            assert grown["venvd_request_bytes_total"] == len(json.dumps(says)) + 1500
            assert grown["venvd_response_bytes_total"] == len("{}abcde")

    run(work)


def _bytes(client: Any) -> dict[str, float]:
    lines = client.backend.metrics().decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if "_bytes_total " in line and line[0] != "#"}


def test_the_build_is_told(run: Any, wardens: Any, serve: Any) -> None:
    """Versions of the server, the worker and the CPython are labels, present before the worker host is there."""

    async def work() -> None:
        async with serve(max_sessions=7) as client:
            text = client.backend.metrics().decode()
            assert f'venvd_build_info{{python="",version="{version("venvd-core")}",worker=""}} 1.0' in text
            assert "venvd_sessions_max 7.0" in text
            wardens.start()
            await client.ready()
            assert 'python=""' not in client.backend.metrics().decode()

    run(work)
