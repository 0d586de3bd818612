"""Files between the store and a scratch folder, every byte of which is checked on the way.

A disk that is full is `StorageFull` here as it is in the store: the job ends with that, and not lost.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from app.services.blobs import Blobs, Received
from app.services.work import Input
from app.storage.failures import translated
from workers.sandbox.scratch import open_result_file

_CHUNK = 1 << 20


@translated(writing=True)
def fetch(blobs: Blobs, wanted: Input, path: Path) -> None:
    """Bring an object into scratch. Raises `Unavailable`, `StorageFull`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blobs.store.fetch_file(wanted.location, path, sha256=wanted.sha256)
    path.chmod(0o644)


@translated(writing=True)
def keep(blobs: Blobs, scratch: Path, folder: str, relative: str, aside: Path) -> Received:
    """Store a file that a child left behind.

    It is copied aside first, opened without following a link: what is hashed is then what is stored, however
    the child, if it still lives, writes to its own copy.
    """
    aside.mkdir(parents=True, exist_ok=True)
    with open_result_file(scratch, folder, relative) as source, NamedTemporaryFile(dir=aside) as copy:
        digest = hashlib.sha256()
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        return blobs.put_file(Path(copy.name), sha256=digest.hexdigest(), size=copy.tell())


def regular_files(folder: Path, *, besides: tuple[str, ...]) -> Iterator[str]:
    """Relative paths of the plain files in a step's folder; links are neither named nor followed."""
    for place, _folders, names in os.walk(folder, followlinks=False):
        for name in sorted(names):
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if relative not in besides and path.is_file() and not path.is_symlink():
                yield relative


@translated(writing=True)
def keep_log(blobs: Blobs, log_file: Path, aside: Path, max_bytes: int) -> Received:
    """Store the end of a log."""
    with log_file.open("rb") as source, NamedTemporaryFile(dir=aside) as copy:
        size = source.seek(0, os.SEEK_END)
        source.seek(max(size - max_bytes, 0))
        text = source.read(max_bytes)
        copy.write(text)
        copy.flush()
        return blobs.put_file(Path(copy.name), sha256=hashlib.sha256(text).hexdigest(), size=len(text))


@translated(writing=True)
def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result back where the step that made it had left it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
