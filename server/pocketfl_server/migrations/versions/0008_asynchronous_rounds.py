"""The three numbers of tasks whose rounds are asynchronous."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "asynchronous_tasks",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("selection_size", sa.Integer(), nullable=False),
        sa.Column("open_slots", sa.Integer(), nullable=False),
        sa.Column("reports_per_release", sa.Integer(), nullable=False),
        sa.Column("max_staleness", sa.Integer(), nullable=False),
        sa.Column("filling", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["tasks.name"]),
        sa.PrimaryKeyConstraint("task"),
    )
