"""Updates that start the next launch of a backend beside the one that serves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("stage", sa.String(8)))
    op.add_column("backends", sa.Column("left", sa.JSON()))
    op.add_column("backends", sa.Column("wanted_key", sa.String(64)))
    op.add_column("backends", sa.Column("proven_key", sa.String(64)))
    op.add_column("backends", sa.Column("update_error", sa.Text()))
    op.add_column("backends", sa.Column("failed_update", sa.String(100)))
    op.add_column("backends", sa.Column("update_failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("backends", sa.Column("update_at", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.execute("DELETE FROM backends WHERE stage IS NOT NULL")
    with op.batch_alter_table("backends") as table:
        for column in ("update_at", "update_failures", "failed_update", "update_error", "proven_key", "wanted_key"):
            table.drop_column(column)
        table.drop_column("left")
        table.drop_column("stage")
