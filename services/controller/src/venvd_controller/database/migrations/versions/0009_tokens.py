"""The tokens of a backend after their rotation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("tokens", sa.JSON()))


def downgrade() -> None:
    op.drop_column("backends", "tokens")
