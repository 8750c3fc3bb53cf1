"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "owner",
        sa.Column("home", sa.String(32), primary_key=True),
        sa.Column("engine", sa.String(16), nullable=False),
    )
    _runtimes_and_venvs()
    _backends()
    _operations()


def _runtimes_and_venvs() -> None:
    op.create_table(
        "runtimes",
        sa.Column("version", sa.String(16), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("resolved", sa.String(32)),
        sa.Column("base", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("operation", sa.String(32)),
        sa.Column("owned", sa.Boolean, nullable=False),
    )
    op.create_table(
        "venvs",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
        sa.Column("runtime", sa.String(16)),
        sa.Column("lock", sa.Text),
        sa.Column("image", sa.JSON),
        sa.Column("inputs", sa.String(64)),
        sa.Column("error", sa.Text),
        sa.Column("operation", sa.String(32)),
        sa.Column("owned", sa.Boolean, nullable=False),
    )
    op.create_table(
        "images",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("unused_since", sa.Float),
    )


def _backends() -> None:
    op.create_table(
        "backends",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("venv", sa.String(63), sa.ForeignKey("venvs.name"), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("wanted", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("started_at", sa.String(32)),
        sa.Column("nonce", sa.String(32), nullable=False),
        sa.Column("launch", sa.String(32)),
        sa.Column("launched_by", sa.String(32)),
        sa.Column("handle", sa.JSON),
        sa.Column("url", sa.Text),
        sa.Column("ports", sa.JSON, nullable=False),
        sa.Column("python", sa.String(32)),
        sa.Column("key", sa.String(64)),
        sa.Column("restarts", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("retry_at", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("operation", sa.String(32)),
        sa.Column("owned", sa.Boolean, nullable=False),
    )


def _operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("target", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("started_at", sa.String(32)),
        sa.Column("ended_at", sa.String(32)),
        sa.Column("phases", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
    )
    op.create_index("operations_by_state", "operations", ["state"])
    op.create_index("operations_by_target", "operations", ["kind", "target"])
    op.create_table(
        "events",
        sa.Column("operation", sa.String(32), sa.ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("events", "operations", "backends", "images", "venvs", "runtimes", "owner"):
        op.drop_table(table)
