"""Clip norms that adapt."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add it."""
    op.create_table(
        "clip_norms",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("clip_norm", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["task", "version"],
            ["models.task", "models.version"],
        ),
        sa.PrimaryKeyConstraint("task", "version"),
    )
