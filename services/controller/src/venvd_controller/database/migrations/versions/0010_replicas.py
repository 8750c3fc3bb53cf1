"""The replicas of a backend, each with its own row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("replica_of", sa.String(63)))
    op.add_column("backends", sa.Column("replica", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.execute("DELETE FROM backends WHERE replica_of IS NOT NULL")
    op.drop_column("backends", "replica")
    op.drop_column("backends", "replica_of")
