"""The schema of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_UNDER_WAY = sa.text("state IN ('open', 'closing', 'aborting')")


def upgrade() -> None:
    """Add it."""
    op.create_table(
        "blobs",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "sha256"),
    )
    op.create_table(
        "check_ins",
        sa.Column("round_id", sa.LargeBinary(length=8), nullable=False),
        sa.Column("device", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("round_id", "device"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "devices",
        sa.Column("token_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("user", sa.String(length=256), nullable=False),
        sa.Column("sdk", sa.String(length=64), nullable=False),
        sa.Column("enrolled_day", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reports",
        sa.Column("lease", sa.String(length=128), nullable=False),
        sa.Column("round_id", sa.LargeBinary(length=8), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("submitted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("lease"),
    )
    op.create_index(op.f("ix_reports_round_id"), "reports", ["round_id"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("plan_sha256", sa.String(length=64), nullable=False),
        sa.Column("privacy", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("finished_reason", sa.String(length=64), nullable=True),
        sa.Column("optimizer", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("seed_task", sa.String(length=128), nullable=True),
        sa.Column("seed_version", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("plan_sha256"),
    )
    op.create_table(
        "user_features",
        sa.Column("user", sa.String(length=256), nullable=False),
        sa.Column("table", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("valid_from", sa.Float(precision=53), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("user", "table", "key", "valid_from"),
    )
    op.create_index(
        "user_features_in_sequence", "user_features", ["user", "table", "sequence"], unique=True
    )
    op.create_table(
        "models",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parameters_sha256", sa.String(length=64), nullable=False),
        sa.Column("optimizer_state_sha256", sa.String(length=64), nullable=True),
        sa.Column("privacy", sa.String(length=16), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("reports", sa.Integer(), nullable=True),
        sa.Column("noise_multiplier", sa.Float(), nullable=True),
        sa.Column("epsilon", sa.Float(), nullable=True),
        sa.Column("epsilon_against_back_end", sa.Float(), nullable=True),
        sa.Column("delta", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task"],
            ["tasks.name"],
        ),
        sa.PrimaryKeyConstraint("task", "version"),
    )
    op.create_table(
        "rounds",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.LargeBinary(length=8), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("new_version", sa.Integer(), nullable=True),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("closes_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("lease_key", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["task", "model_version"],
            ["models.task", "models.version"],
        ),
        sa.ForeignKeyConstraint(
            ["task"],
            ["tasks.name"],
        ),
        sa.PrimaryKeyConstraint("task", "number"),
        sa.UniqueConstraint("id"),
    )
    op.create_index(
        "one_round_under_way",
        "rounds",
        ["task"],
        unique=True,
        sqlite_where=_UNDER_WAY,
        postgresql_where=_UNDER_WAY,
    )
    op.create_table(
        "round_counts",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task", "round"],
            ["rounds.task", "rounds.number"],
        ),
        sa.PrimaryKeyConstraint("task", "round", "stage", "reason"),
    )
