"""What calibration observed, kept for later jobs"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "observations",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("path", sa.String(length=300), nullable=False),
        sa.Column("blob_id", sa.String(length=40), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_observations_blob_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_observations")),
    )
    with op.batch_alter_table("observations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_observations_blob_id"), ["blob_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_observations_used_at"), ["used_at"], unique=False)


def downgrade() -> None:
    op.drop_table("observations")
