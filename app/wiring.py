"""The one place where settings become objects; the server and the workers share it."""

import os
import secrets
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from app.db.session import Database
from app.errors import BitpressError
from app.queue.wake_up import WakeUps
from app.services import Services
from app.services.artifacts import Artifacts
from app.services.blobs import Blobs
from app.services.comparison import Comparisons
from app.services.frontier import Frontiers
from app.services.jobs import Jobs
from app.services.observations import Observations
from app.services.sweeper import Sweeper
from app.services.targets import Targets
from app.services.uploads import Datasets, Models
from app.services.work import Work
from app.settings import Settings
from app.storage.opening import S3Options, open_store
from app.storage.store import ObjectStore


class SettingMissing(BitpressError):
    """The deployment lacks a setting that has no safe default."""

    code = "setting_missing"


def make_private(folder: Path) -> Path:
    """Make a folder that only its owner can enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def database_url(settings: Settings) -> str:
    """The database's SQLAlchemy URL."""
    return settings.database_url or f"sqlite:///{make_private(settings.data_dir) / 'bitpress.sqlite'}"


def broker_url(settings: Settings) -> str:
    """The broker's URL; without one, messages are files in the data folder."""
    return settings.broker_url or f"filesystem://{make_private(settings.data_dir) / 'broker'}"


def s3_options(settings: Settings) -> S3Options:
    """How S3 is reached."""
    secret = settings.s3_secret_access_key
    return S3Options(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
        allow_http=settings.s3_allow_http,
    )


def object_store(settings: Settings) -> ObjectStore:
    """The store of models, datasets and artifacts."""
    url = settings.store_url or (make_private(settings.data_dir) / "objects").as_uri()
    return open_store(url, s3_options(settings))


def scratch_dir(settings: Settings) -> Path:
    """Where jobs work. Others may pass through it, for children run as another user."""
    folder = settings.scratch_dir or make_private(settings.data_dir) / "scratch"
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    return folder


def machine_lock_dir(settings: Settings) -> Path:
    """Where the workers of a machine leave the files that they lock."""
    return settings.machine_lock_dir or Path(gettempdir())


def api_key(settings: Settings) -> str:
    """The API key: from the settings, or made at first start and kept in the data folder, mode 0600.

    Raises `SettingMissing` where a database server is used and no key is set: a key that only one of
    several servers knows is none.
    """
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    if settings.database_url is not None and not settings.database_url.startswith("sqlite"):
        raise SettingMissing("Set BITPRESS_API_KEY to a secret of at least 16 characters, the same for every server.")
    file = make_private(settings.data_dir) / "api_key"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text().strip()
    with os.fdopen(descriptor, "w") as opened:
        key = "bp_" + secrets.token_urlsafe(32)
        opened.write(key + "\n")
    return key


def build(settings: Settings) -> Services:
    """Make every service of a deployment."""
    database = Database(database_url(settings))
    store = object_store(settings)
    wake_ups = WakeUps(broker_url(settings))
    blobs = Blobs(database, store, grace_seconds=settings.grace_seconds)
    targets = Targets(database)
    observations = Observations(database, blobs, keep_seconds=settings.observations_seconds)
    uploads: dict[str, Any] = {
        "max_bytes": settings.max_upload_bytes,
        "source_buckets": settings.source_buckets,
        "s3": s3_options(settings),
    }
    return Services(
        database=database,
        store=store,
        wake_ups=wake_ups,
        blobs=blobs,
        models=Models(database, blobs, wake_ups, **uploads),
        datasets=Datasets(database, blobs, wake_ups, **uploads),
        jobs=Jobs(database, wake_ups, targets, allow_weak_sandbox=settings.allow_weak_sandbox),
        artifacts=Artifacts(database),
        targets=targets,
        work=Work(database, blobs, lease_seconds=settings.lease_seconds),
        observations=observations,
        frontiers=Frontiers(database),
        comparisons=Comparisons(database),
        sweeper=Sweeper(
            database,
            wake_ups,
            blobs,
            observations,
            wake_seconds=settings.wake_seconds,
            grace_seconds=settings.grace_seconds,
        ),
    )
