"""What calibration observed, kept for later jobs."""

from sqlalchemy import BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Id, Table


class Observation(Table):
    """The result of one calibration and the file that it left; `key` is a digest of all that it depends on."""

    __tablename__ = "observations"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    result: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(String(300))
    blob_id: Mapped[Id] = mapped_column(ForeignKey("blobs.id"), index=True)
    used_at: Mapped[int] = mapped_column(BigInteger, index=True)
