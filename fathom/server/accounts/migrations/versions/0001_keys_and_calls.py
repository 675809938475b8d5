"""Keys and calls. Databases from before there were migrations have them already."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    if sa.inspect(op.get_bind()).has_table("keys"):
        return
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("hash", sa.String, nullable=False, unique=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("revoked", sa.Float),
        sa.Column("max_concurrent", sa.Integer),
        sa.Column("max_tokens", sa.BigInteger),
        sa.Column("max_picodollars", sa.BigInteger),
        sa.Column("spent_tokens", sa.BigInteger, nullable=False),
        sa.Column("spent_picodollars", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "calls",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("key", sa.String, nullable=False, index=True),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("hit", sa.Integer, nullable=False),
        sa.Column("miss", sa.Integer, nullable=False),
        sa.Column("thought", sa.Integer, nullable=False),
        sa.Column("output", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("plan", sa.String, nullable=False),
        sa.Column("picodollars", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Nobody wants to lose a ledger."""
    raise NotImplementedError
