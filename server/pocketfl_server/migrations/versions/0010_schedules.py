"""Schedules by which rounds open themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "schedules",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("round_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("pause_seconds", sa.Float(precision=53), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=True),
        sa.Column("hours", sa.String(length=16), nullable=True),
        sa.Column("opened", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["task"], ["tasks.name"]),
        sa.PrimaryKeyConstraint("task"),
    )
