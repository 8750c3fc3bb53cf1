"""The tables of the controller's database."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NEXT, FORMER = "next", "former"
"""Stages of launches in an update. The `NEXT` launch starts beside the launch of a replica and takes its place. The
replaced launch becomes `FORMER` and drains.
"""


class Table(DeclarativeBase):
    type_annotation_map: ClassVar = {dict[str, Any]: JSON(none_as_null=True), list[Any]: JSON}


class OwnerRow(Table):
    """The table has one row: the home that owns this database, and the engine of its runtimes, images and launches."""

    __tablename__ = "owner"

    home: Mapped[str] = mapped_column(String(32), primary_key=True)
    engine: Mapped[str] = mapped_column(String(16))


class RuntimeRow(Table):
    __tablename__ = "runtimes"

    version: Mapped[str] = mapped_column(String(16), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    is_default: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[str] = mapped_column(String(32))
    resolved: Mapped[str | None] = mapped_column(String(32))
    base: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    operation: Mapped[str | None] = mapped_column(String(32))
    declared: Mapped[bool] = mapped_column("owned", default=False)
    """Whether the manifest declares it."""


class VenvRow(Table):
    __tablename__ = "venvs"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    spec: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[str] = mapped_column(String(32))
    updated_at: Mapped[str] = mapped_column(String(32))
    runtime: Mapped[str | None] = mapped_column(String(16))
    """Version of its runtime; null until the first build picks one."""
    lock: Mapped[str | None] = mapped_column(Text)
    image: Mapped[dict[str, Any] | None]
    """Key, ref, python and packages of the last build."""
    inputs: Mapped[str | None] = mapped_column(String(64))
    """Digest of what the controller made `lock` and `image` from."""
    unused_since: Mapped[float | None]
    """Unix time since which no backend uses it; null while one does. Only venvs with a generated name have it."""
    error: Mapped[str | None] = mapped_column(Text)
    operation: Mapped[str | None] = mapped_column(String(32))
    declared: Mapped[bool] = mapped_column("owned", default=False)
    """Whether the manifest declares it."""


class ProviderRow(Table):
    __tablename__ = "providers"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[str] = mapped_column(String(32))
    updated_at: Mapped[str] = mapped_column(String(32))
    declared: Mapped[bool] = mapped_column(default=False)
    """Whether the manifest declares it."""


class ImageRow(Table):
    """A built image. The controller keeps it for a while after its last use."""

    __tablename__ = "images"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    unused_since: Mapped[float | None]
    """Unix time since which nothing uses it; null while something does."""


class LaunchRow(Table):
    """A launch of a backend: a replica, its router, or a launch beside one of these in an update.

    The row of replica 0 is the row of the backend itself.
    """

    __tablename__ = "backends"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    venv: Mapped[str] = mapped_column(ForeignKey("venvs.name"))
    spec: Mapped[dict[str, Any]]
    wanted: Mapped[bool] = mapped_column(default=True)
    """False after a request to remove it."""
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[str | None] = mapped_column(String(32))
    nonce: Mapped[str] = mapped_column(String(32))
    """A random value. The controller derives the backend's tokens from it and the home's secret."""
    tokens: Mapped[dict[str, Any] | None]
    """The nonces of its clients' tokens (`backend_tokens`). Null until the first rotation: `nonce` gives the token."""
    launch: Mapped[str | None] = mapped_column(String(32))
    launched_by: Mapped[str | None] = mapped_column(String(32))
    """The operation that made the launch. If it resumes after a crash, it adopts its own launch."""
    record: Mapped[dict[str, Any] | None] = mapped_column("handle")
    """The engine's `LaunchRecord` of the launch."""
    url: Mapped[str | None] = mapped_column(Text)
    ports: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The ports of its last launch: a restart takes the same ports again."""
    user_id: Mapped[int | None]
    """The user ID of its worker host; no other backend on this machine has it."""
    python: Mapped[str | None] = mapped_column(String(32))
    key: Mapped[str | None] = mapped_column(String(64))
    restarts: Mapped[int] = mapped_column(default=0)
    previous_key: Mapped[str | None] = mapped_column(String(64))
    """Key of the image that it ran before the image with `key`."""
    pinned_key: Mapped[str | None] = mapped_column(String(64))
    """Key of the image that it starts with after a rollback, instead of the newest."""
    failures: Mapped[int] = mapped_column(default=0)
    """Number of successive starts that failed or did not last."""
    retry_at: Mapped[float] = mapped_column(default=0.0)
    """Unix time before which the controller does not start it again."""
    error: Mapped[str | None] = mapped_column(Text)
    operation: Mapped[str | None] = mapped_column(String(32))
    declared: Mapped[bool] = mapped_column("owned", default=False)
    """Whether the manifest declares it."""
    audit_position: Mapped[str | None] = mapped_column(String(80))
    """Position of the newest event of its server that the audit log contains."""
    walls: Mapped[dict[str, Any] | None]
    """The walls around its user code, as its server reported them when it became ready."""
    server: Mapped[str | None] = mapped_column(String(32))
    """Identity of its server programs: `Engine.identify_server` returned it at its start."""
    replica_of: Mapped[str | None] = mapped_column(String(63))
    """Name of its backend; null in the row of the backend itself."""
    replica: Mapped[int] = mapped_column(default=0)
    """Number of its replica; -1 for the router in front of the replicas."""
    named_replicas: Mapped[int] = mapped_column("names", default=1)
    """So many replicas, from 0, take the sessions with names (`replica_table`). Only the row of the backend counts."""
    drain_until: Mapped[float | None]
    """Unix time by which the controller removes a launch that drains, even with sessions. It takes no new ones."""
    stage: Mapped[str | None] = mapped_column(String(8))
    """`NEXT` or `FORMER` if it is a launch beside that of its replica or router; else null."""
    last_sessions: Mapped[dict[str, Any] | None] = mapped_column("left")
    """Only of a `FORMER` launch: `sessions` are the IDs of the sessions that it had when it stopped taking new ones.
    The controller learned them at the Unix time `at`.
    """
    wanted_key: Mapped[str | None] = mapped_column(String(64))
    """Key of the image to which an update rolls it back; null when the update has ended."""
    proven_key: Mapped[str | None] = mapped_column(String(64))
    """Key of the image that an update has tried beside it: its next start takes this image."""
    update_error: Mapped[str | None] = mapped_column(Text)
    """Why its last update failed."""
    failed_update: Mapped[str | None] = mapped_column(String(100))
    """Image key and server of that update, as `Newest.identify` writes them; null after a failed rollback."""
    update_failures: Mapped[int] = mapped_column(default=0)
    """Number of successive updates that failed."""
    update_at: Mapped[float] = mapped_column(default=0.0)
    """Unix time before which the controller does not try that update again."""

    @property
    def is_router(self) -> bool:
        return self.replica < 0

    @property
    def place(self) -> str:
        """The name of the row of its replica or router: its own name, unless it is a launch beside that row."""
        if self.stage is None or self.replica_of is None:
            return self.name
        return self.replica_of if self.replica == 0 else name_replica(self.replica_of, self.replica)


def name_replica(backend: str, number: int) -> str:
    """Make the name of a replica, or of the router for a negative number. The row of replica 0 has another name."""
    return f"{backend}--router" if number < 0 else f"{backend}--{number}"


class StoppedRow(Table):
    """A stopped backend that the manifest declares. The controller does not start it until the manifest changes."""

    __tablename__ = "stopped"

    backend: Mapped[str] = mapped_column(String(63), primary_key=True)
    manifest: Mapped[str] = mapped_column(String(64))
    """Digest of the manifest at the stop."""


class OperationRow(Table):
    __tablename__ = "operations"
    __table_args__ = (Index("operations_by_state", "state"), Index("operations_by_target", "kind", "target"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """The IDs sort by time."""
    kind: Mapped[str] = mapped_column(String(32))
    target: Mapped[str] = mapped_column(String(63))
    venv: Mapped[str | None] = mapped_column(String(63))
    """The venv that it builds, or whose backend it starts. Who may change the venv may see and cancel the operation."""
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[str | None] = mapped_column(String(32))
    ended_at: Mapped[str | None] = mapped_column(String(32))
    phases: Mapped[list[Any]] = mapped_column(default=list)
    error: Mapped[dict[str, Any] | None]


class EventRow(Table):
    __tablename__ = "events"

    operation: Mapped[str] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[str] = mapped_column(Text)


class KeyRow(Table):
    """An access key. The table contains its digest; only its owner has the key."""

    __tablename__ = "keys"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[list[Any]]
    created_at: Mapped[str] = mapped_column(String(32))
    expires_at: Mapped[str | None] = mapped_column(String(32))
    last_used_at: Mapped[str | None] = mapped_column(String(32))


class SecretRow(Table):
    """A secret of a venv or a backend. A key derived from the home's secret encrypts its value."""

    __tablename__ = "secrets"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    """Kind of the owner: `venv` or `backend`."""
    owner: Mapped[str] = mapped_column(String(63), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    use: Mapped[dict[str, Any]]
    """The fields `env` and `header` of the secret; one of them is null."""
    ciphertext: Mapped[str] = mapped_column(Text)
    """Base64 of the nonce and the AES-GCM ciphertext. `kind`, `owner`, `name` and `use` authenticate the ciphertext."""
    set_at: Mapped[str] = mapped_column(String(32))


class AuditRow(Table):
    """One line of the audit log. The controller adds lines and deletes the oldest; it changes none."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_time", "time"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    time: Mapped[str] = mapped_column(String(32))
    key: Mapped[str | None] = mapped_column(String(80))
    peer: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(20))
    target: Mapped[str] = mapped_column(Text)
    status: Mapped[int]
    code: Mapped[str | None] = mapped_column(String(32))
    fields: Mapped[dict[str, Any]]
    count: Mapped[int] = mapped_column(default=1)
