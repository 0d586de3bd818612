"""Workers and the machines they run on, wake-ups sent, and the measuring locks."""

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Milliseconds, Table


class Worker(Table):
    """A worker. `seen_at` is when one of its tasks last began or ended: a worker that looks alive but consumes
    nothing is not. Of one in between the lease tells."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    queue: Mapped[str] = mapped_column(String(120), index=True)
    target: Mapped[str] = mapped_column(String(100))
    fingerprint: Mapped[dict[str, Any]]
    sandbox: Mapped[dict[str, Any]]
    started_at: Mapped[Milliseconds]
    seen_at: Mapped[Milliseconds]


class WakeUp(Table):
    """When the sweeper last sent a message to a queue."""

    __tablename__ = "wake_ups"

    queue: Mapped[str] = mapped_column(String(120), primary_key=True)
    sent_at: Mapped[Milliseconds]


class MeasuringLock(Table):
    """Who measures on a machine now: two workers on one host must never time at once."""

    __tablename__ = "measuring_locks"

    boot_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(200))
    until: Mapped[Milliseconds]
