"""The sockets of pipe backends. Each has its own directory, and perhaps its own name of a pipe."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from venvd_contract.errors import Conflict, Unimplemented
from venvd_contract.resources import BackendSpec
from venvd_controller.database.tables import LaunchRow
from venvd_controller.launch_rows import read_spec
from venvd_controller.specs import choose_socket_name
from venvd_engines.engine import Engine


def check_reachable(spec: BackendSpec, engine: Engine) -> None:
    """Check that clients can reach the socket of a backend.

    Raises:
        Unimplemented: clients cannot reach the engine's sockets.
    """
    if spec.type == "pipe" and not engine.capabilities().sockets:
        name = spec.name or f"{spec.venv}-pipe"
        raise Unimplemented(
            f"type: a Unix socket cannot leave a pod, so the engine {engine.name} starts no pipe backend: "
            f"`venvd backend manifest {name} --venv {spec.venv}` prints a pod that has one beside its client"
        )


def check_free(session: Session, spec: BackendSpec, name: str, home_id: str, run_dir: Path) -> None:
    """Check that no backend other than `name` has the same directory of sockets, or the same name of a pipe.

    Raises:
        Conflict: another backend has it.
    """
    socket_name = choose_socket_name(spec, home_id, name)
    if socket_name is None:
        return
    for row in session.scalars(select(LaunchRow).where(LaunchRow.name != name, LaunchRow.stage.is_(None))):
        other = read_spec(row)
        if spec.pipeName is not None and other.pipeName == spec.pipeName:
            raise Conflict(f'pipeName: the backend "{row.name}" has the name "{spec.pipeName}": choose another')
        if choose_socket_name(other, home_id, row.name) == socket_name:
            raise Conflict(f'socketDir: the backend "{row.name}" has {run_dir / socket_name}: name another')
