"""The audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("key", sa.String(80)),
        sa.Column("peer", sa.String(64), nullable=False),
        sa.Column("method", sa.String(20), nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("code", sa.String(32)),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["time"])


def downgrade() -> None:
    op.drop_table("audit")
