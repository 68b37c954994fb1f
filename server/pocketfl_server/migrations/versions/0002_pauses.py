"""Pauses of tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add it."""
    op.create_table(
        "pauses",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("min_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("max_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("paused_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("task"),
    )
