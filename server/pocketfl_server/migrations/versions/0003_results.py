"""Released answers to queries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add it."""
    op.create_table(
        "results",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("reports", sa.Integer(), nullable=False),
        sa.Column("released", sa.LargeBinary(), nullable=False),
        sa.Column("noise_multiplier", sa.Float(precision=53), nullable=True),
        sa.Column("epsilon", sa.Float(precision=53), nullable=True),
        sa.Column("epsilon_against_back_end", sa.Float(precision=53), nullable=True),
        sa.Column("delta", sa.Float(precision=53), nullable=True),
        sa.Column("budget", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["task", "round"],
            ["rounds.task", "rounds.number"],
        ),
        sa.PrimaryKeyConstraint("task", "round"),
    )
