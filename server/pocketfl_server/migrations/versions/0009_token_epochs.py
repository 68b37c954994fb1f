"""Anonymous tokens for several rounds: their epochs, and which tokens were spent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Until now every token was for one round."""
    op.add_column(
        "tasks",
        sa.Column("rounds_per_token", sa.Integer(), server_default="1", nullable=False),
    )
    op.create_table(
        "spent_tokens",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("token", sa.LargeBinary(length=32), nullable=False),
        sa.Column("last_round", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("task", "token"),
        sqlite_with_rowid=False,
    )
    op.rename_table("token_keys", "token_keys_by_round")
    op.create_table(
        "token_keys",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("first_round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_round", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("task", "first_round"),
    )
    op.execute(
        "INSERT INTO token_keys (task, first_round, last_round, public_key, private_key) "
        "SELECT task, round, round, public_key, private_key FROM token_keys_by_round"
    )
    op.drop_table("token_keys_by_round")
    op.rename_table("issued_tokens", "issued_tokens_by_round")
    op.create_table(
        "issued_tokens",
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("first_round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("device", sa.LargeBinary(length=32), nullable=False),
        sa.Column("last_round", sa.Integer(), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("task", "first_round", "device"),
    )
    op.execute(
        "INSERT INTO issued_tokens (task, first_round, device, last_round, request_sha256) "
        "SELECT task, round, device, round, request_sha256 FROM issued_tokens_by_round"
    )
    op.drop_table("issued_tokens_by_round")
