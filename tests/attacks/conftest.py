"""What attacks share: backends to attack, on each engine, and the proof afterwards that they still serve.

To add an attack:

- One file holds one attacker and one wall (`test_session_to_session_files.py`). Each attempt is a test, or a case of a
  parametrised test.
- The docstring says what the attacker tries, with that word, and what comes of it: "A session tries to signal another:
  the kernel refuses." `test_rules.py` holds this.
- `victim` and `neighbour` are two backends on each engine, which all modules share. `victim.attack(code)` runs code in
  a session of the victim; `with victim.session() as name` makes a session for it. Code that ends its worker host
  starts a backend of its own with `harness.attacks.started`. A module for one engine defines a fixture `engine`.
- `http`, `pipe` and `rpc` are backends of the local engine for attacks of clients, and `target` is each of them.
- A test fails on the state before the wall. It asserts what the attacker gets, and that the others are served.
- `OPEN_IN_GVISOR` names the attacks that succeed under gVisor, and why; `FATAL_IN_GVISOR` those that end a worker host.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.attacks import Target, shared
from harness.door import Door
from harness.engines import ENGINES, OCI_RUNTIME
from harness.stack import SharedStacks, Stack

_HERE = Path(__file__).parent
_ONE_NETWORK = "the sessions of a backend share its loopback, and with it the names of abstract sockets"
OPEN_IN_GVISOR = {"test_abstract_sockets_are_closed": _ONE_NETWORK}
"""Attacks by name that the walls do not stop there, and why. They must succeed: where one fails, the list is wrong."""
FATAL_IN_GVISOR = {"test_a_fork_bomb_stays_inside", "test_memory_without_end_stays_inside"}
"""Attacks that end the worker host, since gVisor's kernel is inside the container. They do not run there."""

SETTINGS = {"VENVD_GRACE": "0.5", "VENVD_STALL_TIMEOUT": "2"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect what is known to be open with the OCI runtime of the run, and leave out what ends its worker hosts."""
    if OCI_RUNTIME != "runsc":
        return
    attacks = [(item, item.name.partition("[")[0]) for item in items if item.path.parent == _HERE]
    for item, name in attacks:
        if name in OPEN_IN_GVISOR:
            item.add_marker(pytest.mark.xfail(reason=OPEN_IN_GVISOR[name]))
    left_out = [item for item, name in attacks if name in FATAL_IN_GVISOR]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    """Each engine."""
    return stacks.stack(request.param)


@pytest.fixture(scope="module")
def victim(stacks: SharedStacks, engine: Stack) -> Iterator[Target]:
    """The backend that is attacked, from a session or from outside."""
    with shared(stacks, engine, "http", "victim", VENVD_CANARY="canary-of-the-server", **SETTINGS) as target:
        yield target


@pytest.fixture(scope="module", params=["forked", "new-interpreter"])
def sessions(request: pytest.FixtureRequest, victim: Target) -> Iterator[tuple[str, str]]:
    """Attacker and victim: sessions that are forks of the zygote, and such that are interpreters of their own."""
    env = {} if request.param == "forked" else {"PYTHONUTF8": "1"}
    with victim.session(env=env) as attacker, victim.session(env=env) as other:
        yield attacker, other


@pytest.fixture(scope="module")
def neighbour(stacks: SharedStacks, engine: Stack) -> Iterator[Target]:
    """The backend beside it, of another tenant."""
    with shared(stacks, engine, "http", "neighbour", **SETTINGS) as target:
        yield target


@pytest.fixture(scope="package")
def stack(stacks: SharedStacks) -> Stack:
    return stacks.stack("local")


def define_backend(kind: str) -> Any:
    """Define the fixture of a backend of the local engine, which has the name of its type."""

    @pytest.fixture(scope="package", name=kind)
    def backend(stacks: SharedStacks, stack: Stack) -> Iterator[Target]:
        with shared(stacks, stack, kind, "neighbour", **SETTINGS) as target:
            yield target

    return backend


http, pipe, rpc = map(define_backend, ("http", "pipe", "rpc"))


@pytest.fixture(params=["http", "pipe", "rpc"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each transport."""
    transport: Target = request.getfixturevalue(request.param)
    return transport


@pytest.fixture(params=[("http", False), ("pipe", True), ("rpc", True)], ids=["http", "pipe-probes", "rpc-http"])
def http_door(request: pytest.FixtureRequest) -> tuple[Target, Door]:
    """Each place where HTTP is spoken."""
    kind, probes = request.param
    door: Target = request.getfixturevalue(kind)
    return door, door.probes if probes else door.main
