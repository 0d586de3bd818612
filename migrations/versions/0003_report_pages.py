"""The report of a job as a page"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("page_blob_id", sa.String(length=40), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_jobs_page_blob_id"), "blobs", ["page_blob_id"], ["id"])
        batch_op.create_index(batch_op.f("ix_jobs_page_blob_id"), ["page_blob_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_page_blob_id"))
        batch_op.drop_constraint(batch_op.f("fk_jobs_page_blob_id"), type_="foreignkey")
        batch_op.drop_column("page_blob_id")
