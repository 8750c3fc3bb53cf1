"""Replicas that are removed while the others run on, and rollbacks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("names", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("backends", sa.Column("drain_until", sa.Float()))
    op.add_column("backends", sa.Column("previous_key", sa.String(64)))
    op.add_column("backends", sa.Column("pinned_key", sa.String(64)))


def downgrade() -> None:
    with op.batch_alter_table("backends") as table:
        table.drop_column("pinned_key")
        table.drop_column("previous_key")
        table.drop_column("drain_until")
        table.drop_column("names")
