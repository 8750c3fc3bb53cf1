"""The position of the last event of a backend's server that the audit log has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("backends", sa.Column("audit_position", sa.String(80)))


def downgrade() -> None:
    op.drop_column("backends", "audit_position")
