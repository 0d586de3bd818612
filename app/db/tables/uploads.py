"""Models and datasets: what people upload, and what inspection found in it."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Id, Key, Leased, Milliseconds, Table


class _Uploaded(Leased):
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(String(200))
    file_name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    inspection: Mapped[dict[str, Any] | None]
    """What inspection found."""
    error: Mapped[dict[str, Any] | None]
    """Why it was rejected."""
    created_at: Mapped[Milliseconds]


class Model(_Uploaded, Table):
    """An uploaded model."""

    __tablename__ = "models"
    __table_args__ = (Index(None, "state", "created_at"),)

    blob_id: Mapped[Id] = mapped_column(ForeignKey("blobs.id"), index=True)


class Dataset(_Uploaded, Table):
    """An uploaded dataset; `preprocess` says how a folder of images becomes an array."""

    __tablename__ = "datasets"
    __table_args__ = (Index(None, "state", "created_at"),)

    blob_id: Mapped[Id] = mapped_column(ForeignKey("blobs.id"), index=True)
    preprocess: Mapped[dict[str, Any] | None]
