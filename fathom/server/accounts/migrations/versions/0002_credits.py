"""Credit that keys are given after they were made."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the sums to the keys, and the table of what was given."""
    for name in ("granted_picodollars", "topped_up_picodollars"):
        op.add_column("keys", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "credits",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("key", sa.String, nullable=False, index=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("picodollars", sa.BigInteger, nullable=False),
        sa.Column("note", sa.String, nullable=False),
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("credits")
    for name in ("granted_picodollars", "topped_up_picodollars"):
        op.drop_column("keys", name)
