"""Files of the command line that become models and datasets of the service."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bitpress.command.output import say
from bitpress.command.progress import bytes_bar
from bitpress.command.session import is_id

if TYPE_CHECKING:
    from bitpress.client import Client
    from bitpress.types import Dataset, Model


def upload_model(client: "Client", source: str, name: str | None = None) -> "Model":
    """Upload a file with a bar, or have the service fetch an address; returns what inspection made of it."""
    if _is_address(source):
        return client.wait_ready(client.import_model(source, name))
    path = _existing_file(source)
    with bytes_bar(f"uploading {path.name}") as told:
        model = client.upload_model(path, name, on_progress=told)
    return client.wait_ready(model)


def upload_dataset(
    client: "Client", source: str, name: str | None = None, preprocess: Mapping[str, Any] | None = None
) -> "Dataset":
    """Upload a dataset as `upload_model` does a model."""
    if _is_address(source):
        return client.wait_ready(client.import_dataset(source, name, preprocess))
    path = _existing_file(source)
    with bytes_bar(f"uploading {path.name}") as told:
        dataset = client.upload_dataset(path, name, preprocess, on_progress=told)
    return client.wait_ready(dataset)


def model_id(client: "Client", given: str) -> str:
    """The id behind an id, a file or an address; what the service does not have yet is uploaded."""
    if is_id(given, "mdl"):
        return given
    if not _is_address(given):
        same = {"sha256": _sha256(_existing_file(given)), "state": "ready"}
        for known in client.models(**same):
            return _told(given, known["id"], "uploaded before")
    return _told(given, upload_model(client, given)["id"], "uploaded now")


def dataset_id(client: "Client", given: str, preprocess: Mapping[str, Any] | None) -> str:
    """The id of a dataset, as `model_id` finds a model's."""
    if is_id(given, "dst"):
        return given
    # The service fills defaults in, so only what was uploaded without `preprocess` is known to be the same.
    if not _is_address(given) and preprocess is None:
        same = {"sha256": _sha256(_existing_file(given)), "state": "ready"}
        for known in client.datasets(**same):
            if known["preprocess"] is None:
                return _told(given, known["id"], "uploaded before")
    return _told(given, upload_dataset(client, given, None, preprocess)["id"], "uploaded now")


def _told(given: str, thing_id: str, when: str) -> str:
    say(f"{given} is {thing_id}, {when}")
    return thing_id


def _is_address(source: str) -> bool:
    return source.startswith(("s3://", "https://", "http://"))


def check_source(given: str, prefix: str) -> None:
    """Refuse what is neither an id with this prefix, nor an address, nor a file."""
    if not is_id(given, prefix) and not _is_address(given):
        _existing_file(given)


def _existing_file(given: str) -> Path:
    path = Path(given)
    if path.is_dir():
        raise typer.BadParameter(f"{given} is a folder; give a file, or a .zip or .tar of the file set")
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {given}, nor is that an id")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
