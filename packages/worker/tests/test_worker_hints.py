"""What tracebacks say beyond the error: how a module or the network comes to user code."""

from __future__ import annotations

import errno
import socket
import urllib.error

import pytest

from venvd_worker.session.hints import find_hint
from venvd_worker.session.tracebacks import format_traceback


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("no_such_module", "`venvd venv add VENV no_such_module`"),
        ("sklearn.linear_model", 'The venv has no module "sklearn": `venvd venv add VENV scikit-learn`'),
        ("pytest.no_such_part", None),
        ("tkinter", None),
        ("not a module", None),
        (None, None),
    ],
)
def test_a_module_that_the_venv_lacks(module: str | None, says: str | None) -> None:
    """The hint names the package to add; a part that a package of the venv lacks has none."""
    hint = find_hint(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert hint is None if says is None else says in (hint or "")


def test_a_network_that_is_off() -> None:
    """A name that cannot be resolved, directly or behind another error, has a hint; an unknown name has none."""
    unresolved = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    behind = ConnectionError("failed")
    behind.__context__ = unresolved
    refused = (OSError(errno.ENETUNREACH, "unreachable"), OSError(errno.EAFNOSUPPORT, "no such family"))
    for error in (unresolved, urllib.error.URLError(unresolved), behind, *refused):
        assert "`venvd start --network`" in (find_hint(error) or "")
    assert find_hint(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) is None
    assert find_hint(ValueError("x")) is None


def test_the_hint_ends_the_traceback() -> None:
    """Everyone who shows the traceback shows the hint."""
    text = format_traceback(ModuleNotFoundError("No module named 'nowhere'", name="nowhere"))
    error, hint = text.splitlines()[-2:]
    assert error == "ModuleNotFoundError: No module named 'nowhere'"
    assert hint.startswith('The venv has no module "nowhere": `venvd venv add VENV nowhere` adds its package')
