"""Links by which .NET finds pipes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_engines import compat


def make_socket(directory: Path) -> Path:
    """Make the directory of a backend's socket, and return the socket's path."""
    directory.mkdir()
    return directory / "pipe.sock"


def test_a_link_leads_to_the_socket(tmp_path: Path) -> None:
    """A client reaches the socket through the link, whose removal leaves the socket."""
    path, link = make_socket(tmp_path / "a"), compat.find_link(tmp_path, "my pipe")
    assert link.name == "CoreFxPipe_my pipe"
    compat.make_link(link, path)
    compat.make_link(link, path)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen()
        client.connect(str(link))
    compat.remove_link(link, path)
    compat.remove_link(link, path)
    assert path.exists()
    assert not link.is_symlink()


def test_a_name_in_use_is_a_conflict(tmp_path: Path) -> None:
    """The link of another backend and a file that is no link stay, also where the owner of another link ends."""
    first, second = make_socket(tmp_path / "a"), make_socket(tmp_path / "b")
    link = compat.find_link(tmp_path, "pipe")
    compat.make_link(link, first)
    with pytest.raises(Conflict, match=f'"pipe" is in use: .*; it leads to {first}'):
        compat.make_link(link, second)
    compat.remove_link(link, second)
    assert link.readlink() == first
    link.unlink()
    link.touch()
    with pytest.raises(Conflict, match="in use"):
        compat.make_link(link, second)
    compat.remove_link(link, second)
    assert link.exists()


def test_a_stale_link_is_replaced(tmp_path: Path) -> None:
    """A link to a directory that is gone has no owner."""
    first, second = make_socket(tmp_path / "a"), make_socket(tmp_path / "b")
    link = compat.find_link(tmp_path, "pipe")
    compat.make_link(link, first)
    first.parent.rmdir()
    compat.make_link(link, second)
    assert link.readlink() == second


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    """The error names the path, its size and the setting."""
    with pytest.raises(InvalidRequest, match=r"has 1\d\d bytes.*107.*VENVD_PIPE_NAME_DIR"):
        compat.find_link(tmp_path, "x" * 100)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_only_the_owner_of_a_shared_directory_makes_links_for_all(tmp_path: Path) -> None:
    """In a sticky directory, a link of another user would serve that user alone."""
    shared = Path("/tmp") / f"venvd-names-{tmp_path.name}-{os.getpid()}"
    shared.mkdir()
    shared.chmod(0o1777)
    link, path = shared / "link", shared / "pipe.sock"
    os.seteuid(65534)
    try:
        compat.make_link(link, path, for_all=False)
        compat.remove_link(link, path)
        with pytest.raises(PermissionError, match="only root makes links"):
            compat.make_link(link, path)
    finally:
        os.seteuid(0)
    assert not link.is_symlink()
    shared.rmdir()
