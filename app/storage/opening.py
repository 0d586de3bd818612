"""From an address to an object store: the deployment's own, and the sources that users name."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, MemoryStore, S3Store

from app.errors import FieldError, Forbidden, InvalidRequest
from app.storage.store import LOCAL_TRANSFER, S3_TRANSFER, ObjectStore

if TYPE_CHECKING:
    # obstore has these for type checkers only.
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential, S3CredentialProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """How to reach an S3 server.

    Without keys, those of the machine's own role are used, as on AWS. `timeout_seconds` is how
    long the server may stay silent; it has to cover the sending of one part of 8 MiB.
    """

    endpoint: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    allow_http: bool = False
    timeout_seconds: float = 15.0


class Source(NamedTuple):
    """An object that a user named: the store that holds it, and where."""

    store: ObjectStore
    location: str


def open_store(url: str, s3: S3Options | None = None) -> ObjectStore:
    """Open `file:///folder`, `s3://bucket/prefix` or `memory://`.

    A folder is made where there is none, readable only by its owner. Nothing is asked of an S3
    server yet. Raises ValueError for any other address.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return ObjectStore(MemoryStore(), LOCAL_TRANSFER)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        folder = Path(unquote(parts.path))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return ObjectStore(LocalStore(folder), LOCAL_TRANSFER, folder)
    if parts.scheme == "s3" and parts.netloc:
        return _open_bucket(parts.netloc, parts.path.strip("/"), s3 or S3Options())
    raise ValueError(f"Not the address of an object store: {url!r}. Use file:///…, s3://… or memory://.")


def open_source(
    url: str, allowed_buckets: Collection[str], s3: S3Options | None = None, *, pointer: str = "/source"
) -> Source:
    """Open the object that a user names as `s3://bucket/key`.

    Raises InvalidRequest (`source_invalid`) for what is no such address, and Forbidden
    (`source_not_allowed`) for other schemes and for buckets that the deployment does not allow.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise _invalid_source("Name the source as s3://bucket/key.", pointer)
    if scheme != "s3":
        raise Forbidden("Only s3:// sources are allowed here.", code="source_not_allowed")
    # Not by a URL parser: `?`, `#` and `%` are ordinary characters of a key.
    bucket, _, key = rest.partition("/")
    if not bucket or not key or key.endswith("/"):
        raise _invalid_source("Name one object, as s3://bucket/key.", pointer)
    if bucket not in allowed_buckets:
        raise Forbidden(
            f"This deployment does not read from the bucket {bucket!r}; use one of: "
            + (", ".join(sorted(allowed_buckets)) or "none is allowed")
            + ".",
            code="source_not_allowed",
        )
    if not key.isprintable() or any(part in ("", ".", "..") for part in key.split("/")):
        raise _invalid_source("The key has an empty, `.` or `..` segment, or a control character.", pointer)
    return Source(_open_bucket(bucket, "", s3 or S3Options()), key)


def _invalid_source(detail: str, pointer: str) -> InvalidRequest:
    return InvalidRequest(detail, code="source_invalid", errors=[FieldError(pointer, "source_invalid", detail)])


def _open_bucket(bucket: str, prefix: str, s3: S3Options) -> ObjectStore:
    if s3.endpoint is not None and s3.endpoint.startswith("http://") and not s3.allow_http:
        raise ValueError(f"The S3 endpoint {s3.endpoint} is not encrypted: allow plain HTTP, or use https://.")
    if (s3.access_key_id is None) != (s3.secret_access_key is None):
        raise ValueError("An S3 access key id and its secret belong together: give both or neither.")
    silence = timedelta(seconds=s3.timeout_seconds)
    client: ClientConfig = {
        "allow_http": s3.allow_http,
        "connect_timeout": timedelta(seconds=3),
        "read_timeout": silence,
        # obstore's 30 s would cut every long download; a silent server is `read_timeout`'s.
        "timeout": timedelta(days=1),
    }
    retry: RetryConfig = {
        "max_retries": 3,
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=1),
            "base": 2,
        },
        # What was silent once is not asked again.
        "retry_timeout": silence,
    }
    config: S3Config = {"region": s3.region}
    if s3.endpoint is not None:
        config["endpoint"] = s3.endpoint
    backend = S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options=client,
        retry_config=retry,
        credential_provider=_fixed_credentials(s3),
    )
    return ObjectStore(backend, S3_TRANSFER)


def _fixed_credentials(s3: S3Options) -> "S3CredentialProvider | None":
    if s3.access_key_id is None or s3.secret_access_key is None:
        return None
    credential: S3Credential = {
        "access_key_id": s3.access_key_id,
        "secret_access_key": s3.secret_access_key,
        "token": None,
        "expires_at": None,
    }
    # Given as settings, obstore would mix them with the AWS_SESSION_TOKEN of the environment.
    return lambda: credential
