"""A user ID for the worker host of each backend."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("user_id", sa.Integer))


def downgrade() -> None:
    op.drop_column("backends", "user_id")
