"""The tables."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NEXT, FORMER = "next", "former"
"""Stages of the launches beside that of a replica: in an update, the next one starts, and the former one drains."""


class Table(DeclarativeBase):
    type_annotation_map: ClassVar = {dict[str, Any]: JSON(none_as_null=True), list[Any]: JSON}


class OwnerRow(Table):
    """The only row names the home that owns this database, and the engine of its runtimes, images and launches."""

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
    """Digest of the inputs of `lock` and `image`."""
    unused_since: Mapped[float | None]
    """Unix time since which no backend uses it; only of venvs that clients did not name."""
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
    """An image that was built. It stays for a while after its last use."""

    __tablename__ = "images"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    unused_since: Mapped[float | None]
    """Unix time."""


class BackendRow(Table):
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
    """Random value; its tokens are derived from this and the home's secret."""
    tokens: Mapped[dict[str, Any] | None]
    """The nonces of its clients' tokens (`backend_tokens`); null before the first rotation: it is `nonce`."""
    launch: Mapped[str | None] = mapped_column(String(32))
    launched_by: Mapped[str | None] = mapped_column(String(32))
    """The operation that made the launch: resumed after a crash, it adopts its own launch."""
    record: Mapped[dict[str, Any] | None] = mapped_column("handle")
    url: Mapped[str | None] = mapped_column(Text)
    ports: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The ports of its last launch: a restart takes the same ports again."""
    user_id: Mapped[int | None]
    """The user of its worker host; no other backend of this machine has it."""
    python: Mapped[str | None] = mapped_column(String(32))
    key: Mapped[str | None] = mapped_column(String(64))
    restarts: Mapped[int] = mapped_column(default=0)
    previous_key: Mapped[str | None] = mapped_column(String(64))
    """Of the image that it ran before the one with `key`."""
    pinned_key: Mapped[str | None] = mapped_column(String(64))
    """Of the image that its starts take in place of the newest, after a rollback."""
    failures: Mapped[int] = mapped_column(default=0)
    """Successive starts that failed or did not last."""
    retry_at: Mapped[float] = mapped_column(default=0.0)
    """Unix time of the earliest next start."""
    error: Mapped[str | None] = mapped_column(Text)
    operation: Mapped[str | None] = mapped_column(String(32))
    declared: Mapped[bool] = mapped_column("owned", default=False)
    """Whether the manifest declares it."""
    audit_position: Mapped[str | None] = mapped_column(String(80))
    """Up to where the audit log has the events of its server."""
    walls: Mapped[dict[str, Any] | None]
    """Around its user code, as its server reported them when it became ready."""
    server: Mapped[str | None] = mapped_column(String(32))
    """What `Engine.identify_server` said at its start."""
    replica_of: Mapped[str | None] = mapped_column(String(63))
    """The backend of which it is a further replica; null for replica 0, the row of the backend itself."""
    replica: Mapped[int] = mapped_column(default=0)
    """Its number among the replicas; -1 is the router in front of them."""
    names: Mapped[int] = mapped_column(default=1)
    """So many of the first replicas take the sessions with names; of replica 0 alone (`replica_table`)."""
    drain_until: Mapped[float | None]
    """Unix time at which a replica that takes no new sessions is removed, also with those that it has."""
    stage: Mapped[str | None] = mapped_column(String(8))
    """Of a launch beside that of its replica, in an update: `NEXT` or `FORMER`."""
    left: Mapped[dict[str, Any] | None]
    """Of a `FORMER` launch: `sessions` are the IDs of those that it had when it took no new ones any more, which was
    known `at` this Unix time.
    """
    wanted_key: Mapped[str | None] = mapped_column(String(64))
    """Of the image to which a rollback takes it, until it runs it."""
    proven_key: Mapped[str | None] = mapped_column(String(64))
    """Of the image that its next start takes, since an update has tried it."""
    update_error: Mapped[str | None] = mapped_column(Text)
    """Why the last update of it failed."""
    failed_update: Mapped[str | None] = mapped_column(String(100))
    """What that update would have given it: the key of its image, and its server."""
    update_failures: Mapped[int] = mapped_column(default=0)
    """Successive updates that failed."""
    update_at: Mapped[float] = mapped_column(default=0.0)
    """Unix time of the earliest next try of the update that failed."""

    @property
    def is_router(self) -> bool:
        return self.replica < 0

    @property
    def place(self) -> str:
        """The name of the row of its replica: its own, unless it is a launch beside that."""
        if self.stage is None or self.replica_of is None:
            return self.name
        return self.replica_of if self.replica == 0 else name_replica(self.replica_of, self.replica)


def name_replica(backend: str, number: int) -> str:
    """Make the name of the row of a replica other than 0, or of the router."""
    return f"{backend}--router" if number < 0 else f"{backend}--{number}"


class StoppedRow(Table):
    """A backend that the manifest declares, and that is stopped until the manifest changes."""

    __tablename__ = "stopped"

    backend: Mapped[str] = mapped_column(String(63), primary_key=True)
    manifest: Mapped[str] = mapped_column(String(64))
    """Digest of the manifest."""


class OperationRow(Table):
    __tablename__ = "operations"
    __table_args__ = (Index("operations_by_state", "state"), Index("operations_by_target", "kind", "target"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Sorts by time."""
    kind: Mapped[str] = mapped_column(String(32))
    target: Mapped[str] = mapped_column(String(63))
    venv: Mapped[str | None] = mapped_column(String(63))
    """The venv that it builds or starts a backend of: who may change the venv may see and cancel the operation."""
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
    """An access key. The table holds its digest; only its owner has the key."""

    __tablename__ = "keys"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[list[Any]]
    created_at: Mapped[str] = mapped_column(String(32))
    expires_at: Mapped[str | None] = mapped_column(String(32))
    last_used_at: Mapped[str | None] = mapped_column(String(32))


class SecretRow(Table):
    """A secret of a venv or a backend. The value is encrypted with a key that the home's secret gives."""

    __tablename__ = "secrets"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    """Of the owner: `venv` or `backend`."""
    owner: Mapped[str] = mapped_column(String(63), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    use: Mapped[dict[str, Any]]
    """`env` or `header` of the secret."""
    ciphertext: Mapped[str] = mapped_column(Text)
    """In base64: the nonce and what AES-GCM gives, bound to all columns above."""
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
