"""The walls around a backend's user code."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("walls", sa.JSON()))


def downgrade() -> None:
    op.drop_column("backends", "walls")
