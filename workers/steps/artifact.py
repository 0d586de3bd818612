"""A model's files: how large they are, what they hash to, and how they travel as one."""

import hashlib
import zipfile
from pathlib import Path

import onnx
from pydantic import BaseModel

from app.domain.measurement import UNITS, Measurement
from workers.formats.onnx.weights import external_files
from workers.formats.signatures import model_format

_BLOCK = 2**20


class StoredFile(BaseModel):
    """A file by its name beside the others, its size and its SHA-256."""

    name: str
    bytes: int
    sha256: str


def describe(main: Path) -> tuple[StoredFile, ...]:
    """The main file first, then every other file of its folder and below, by name."""
    others = sorted(path for path in main.parent.rglob("*") if path.is_file() and path != main)
    return tuple(
        StoredFile(name=path.relative_to(main.parent).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in (main, *others)
    )


def describe_model(main: Path) -> tuple[StoredFile, ...]:
    """The files of an original: the model and the data files that it names, whatever else lies there."""
    alone = model_format(main) != "onnx"
    names = () if alone else external_files(onnx.load(main, load_external_data=False))
    return tuple(_stored(main.parent / name, main.parent) for name in (main.name, *names))


def _stored(path: Path, folder: Path) -> StoredFile:
    return StoredFile(name=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(files: tuple[StoredFile, ...], folder: Path, archive: Path) -> None:
    """Put files into one uncompressed `.zip`. The same files give the same bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, allowZip64=True) as packed:
        for file in files:
            entry = zipfile.ZipInfo(file.name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with (folder / file.name).open("rb") as source, packed.open(entry, "w", force_zip64=True) as target:
                while block := source.read(_BLOCK):
                    target.write(block)


def artifact_bytes(files: tuple[StoredFile, ...]) -> Measurement:
    """The size of a model: all of its files together."""
    unit, better = UNITS["artifact_bytes"]
    return Measurement(
        name="artifact_bytes",
        value=float(sum(file.bytes for file in files)),
        unit=unit,
        better=better,
        count=1,
        conditions={"files": len(files)},
    )
