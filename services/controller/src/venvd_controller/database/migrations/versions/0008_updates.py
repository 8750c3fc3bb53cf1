"""The version of a backend's server, declared backends that are stopped, and how long a venv was not used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("server", sa.String(32)))
    op.add_column("venvs", sa.Column("unused_since", sa.Float()))
    op.create_table(
        "stopped",
        sa.Column("backend", sa.String(63), primary_key=True),
        sa.Column("manifest", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("stopped")
    op.drop_column("venvs", "unused_since")
    op.drop_column("backends", "server")
