"""Peers of Unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from venvd_contract.errors import Forbidden
from venvd_core.hangup import HangupWatcher
from venvd_core.settings import WrongSettings, read
from venvd_pipe_backend import peers
from venvd_pipe_backend.settings import PipeSettings


def test_the_kernel_tells_the_users_id() -> None:
    """Both ends of a pair belong to this process's user."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peers.read_user_id(ours) == os.geteuid()


def test_a_token_is_guard_enough(tmp_path: Path) -> None:
    """Without a setting any user may connect where a token is needed."""
    assert peers.find_allowed_users(None, tmp_path, token=True) is None


def test_without_a_token_the_user_is_the_guard(tmp_path: Path) -> None:
    """Without setting and token: this process's user, root, and the owner of the directory."""
    assert peers.find_allowed_users(None, tmp_path, token=False) == {0, os.geteuid(), tmp_path.stat().st_uid}


def test_named_users_hold_in_any_case(tmp_path: Path) -> None:
    """Users that are named are the only ones, token or not; `any` is everyone."""
    assert peers.find_allowed_users(frozenset({7}), tmp_path, token=True) == {7}
    assert peers.find_allowed_users("any", tmp_path, token=False) is None


def test_a_stranger_is_refused() -> None:
    """A user who is not allowed is told the ID that the kernel shows."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peers.check_user(ours, None)
        peers.check_user(ours, frozenset({os.geteuid()}))
        with pytest.raises(Forbidden, match=str(os.geteuid())):
            peers.check_user(ours, frozenset({os.geteuid() + 1}))


@pytest.mark.parametrize(
    ("given", "uids"), [("any", "any"), ("0, 1000", {0, 1000}), ("1000 1001", {1000, 1001}), ("", None)]
)
def test_user_ids_from_the_environment(given: str, uids: object) -> None:
    """`VENVD_SOCKET_UIDS` takes numbers with commas or spaces, or `any`; empty is not set."""
    assert read(PipeSettings, {"VENVD_NO_TOKEN": "1", "VENVD_SOCKET_UIDS": given}).socket_uids == uids


def test_the_mode_is_octal() -> None:
    """`VENVD_SOCKET_MODE` is read as file modes are written."""
    assert read(PipeSettings, {"VENVD_NO_TOKEN": "1", "VENVD_SOCKET_MODE": "0606"}).socket_mode == 0o606


@pytest.mark.parametrize(
    ("name", "value"), [("VENVD_SOCKET_MODE", "rw"), ("VENVD_SOCKET_MODE", "1777"), ("VENVD_SOCKET_UIDS", "me")]
)
def test_wrong_settings_are_named(name: str, value: str) -> None:
    """A setting that cannot be read says what it takes."""
    with pytest.raises(WrongSettings, match=value):
        read(PipeSettings, {"VENVD_NO_TOKEN": "1", name: value})


def test_only_a_peer_that_closed_has_hung_up() -> None:
    """A peer that ended its writing still reads; one that closed, or shut both directions, does not."""
    ours, theirs = socket.socketpair()
    with ours:
        assert not peers.hung_up(ours.fileno())
        theirs.shutdown(socket.SHUT_WR)
        assert not peers.hung_up(ours.fileno())
        theirs.close()
        assert peers.hung_up(ours.fileno())


def test_hangups_are_reported_without_reading() -> None:
    """A hang-up is reported although bytes of the peer lie unread; an end of writing is no hang-up."""

    async def watch() -> list[str]:
        loop = asyncio.get_running_loop()
        hangups = HangupWatcher(loop)
        hung_up: list[str] = []
        pairs = {name: socket.socketpair() for name in ("stays", "ends", "goes")}
        gone = asyncio.Event()
        for name, (ours, theirs) in pairs.items():
            theirs.send(b"unread")
            hangups.watch(ours.fileno(), lambda name=name: (hung_up.append(name), gone.set()))
        pairs["ends"][1].shutdown(socket.SHUT_WR)
        pairs["goes"][1].close()
        await asyncio.wait_for(gone.wait(), 10)
        hangups.close()
        for pair in pairs.values():
            for end in pair:
                end.close()
        return hung_up

    assert asyncio.run(watch()) == ["goes"]
