"""Keys, and the venv of an operation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("scope", sa.JSON, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.String(32)),
        sa.Column("last_used_at", sa.String(32)),
    )
    op.add_column("operations", sa.Column("venv", sa.String(63)))
    operations = sa.table("operations", *map(sa.column, ("kind", "target", "venv")))
    backends = sa.table("backends", *map(sa.column, ("name", "venv")))
    of_builds = operations.update().where(operations.c.kind == "venv.build")
    op.execute(of_builds.values(venv=operations.c.target))
    venv = sa.select(backends.c.venv).where(backends.c.name == operations.c.target).scalar_subquery()
    of_starts = operations.update().where(operations.c.kind == "backend.start")
    # no venv has the name '': the backend of such an operation is gone
    op.execute(of_starts.values(venv=sa.func.coalesce(venv, "")))


def downgrade() -> None:
    op.drop_column("operations", "venv")
    op.drop_table("keys")
