"""Replicas that are removed while the others run on."""

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


def downgrade() -> None:
    with op.batch_alter_table("backends") as table:
        table.drop_column("drain_until")
        table.drop_column("names")
