"""A .zip of pictures with `labels.csv`: decoded row by row as the `preprocess` object says."""

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from app.domain.dataset import LABELS, Preprocess
from app.domain.model import TensorSpec
from app.errors import RejectedInput
from workers.formats.archives import is_litter, safe_name, unsafe
from workers.formats.datasets.interface import Array, Batch, Dataset
from workers.formats.limits import InputLimits, human_bytes
from workers.formats.zip_members import DAMAGE, forbidden, open_zip

LABELS_FILE = "labels.csv"
_LABELS_BYTES = 256 << 20
_LABEL_BOUND = 1 << 62
# A strip of 1 × 60,000 pixels becomes a giant when its shorter side is resized.
_RESIZED_PIXELS = 64_000_000

# The decoders that are needed, and no other of Pillow's fifty.
_DECODERS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"})
# One channel of more than eight bits: converting it to eight would cut off, not scale.
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class ImageDataset(Dataset):
    """Pictures in the order of `labels.csv` (columns `file` and `label`), or by name where there is none."""

    format = "images"

    def __init__(self, path: Path, preprocess: Preprocess, limits: InputLimits) -> None:
        """Read the archive's directory and the labels, no picture yet.

        Raises RejectedInput `truncated`, `archive_unsafe`, `archive_too_large`, `dataset_labels_invalid`,
        `dataset_file_missing` or `dataset_empty`.
        """
        self._preprocess = preprocess
        self._limits = limits
        self._zip = open_zip(path, what="dataset")
        try:
            members, table = _contents(self._zip)
            self._rows, self._labels = self._listed(members, table)
        except BaseException:
            self.close()
            raise
        self.rows = len(self._rows)
        pictures = TensorSpec(name=preprocess.input, dtype=preprocess.dtype, shape=preprocess.row_shape)
        labels = (TensorSpec(name=LABELS, dtype="int64", shape=()),) if self._labels is not None else ()
        self.fields = (pictures, *labels)
        pictures_there = sum(Path(name).suffix.lower() in _SUFFIXES for name in members)
        unused = pictures_there - len({row.filename for row in self._rows})
        notes = []
        if self._labels is None:
            notes.append(f"There is no {LABELS_FILE}: the pictures are taken by name, without labels.")
        if unused > 0:
            notes.append(f"{unused} pictures are not in {LABELS_FILE} and not used.")
        self.notes = tuple(notes)

    def close(self) -> None:
        self._zip.close()

    def _read(self, size: int, names: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        return self.read_numbers(size, names, np.arange(start, stop))

    def read_numbers(self, size: int, names: Sequence[str], numbers: Array) -> Iterator[Batch]:
        """The rows with these numbers, `size` at a time; no other picture is opened."""
        for first in range(0, len(numbers), size):
            rows = numbers[first : first + size]
            batch: Batch = {}
            if self._preprocess.input in names:
                batch[self._preprocess.input] = np.stack([self._picture(self._rows[row]) for row in rows])
            if LABELS in names and self._labels is not None:
                batch[LABELS] = self._labels[rows]
            yield batch

    def _picture(self, member: zipfile.ZipInfo) -> Array:
        content = _content(self._zip, member, self._limits.image_bytes)
        try:
            with Image.open(io.BytesIO(content), formats=_DECODERS) as image:
                if image.width * image.height > self._limits.image_pixels:
                    raise RejectedInput(
                        f"The picture {member.filename!r} has {image.width} × {image.height} pixels, and at most "
                        f"{self._limits.image_pixels} are taken. Make it smaller.",
                        code="dataset_image_too_large",
                    )
                if image.mode in _DEEP_MODES:
                    raise RejectedInput(
                        f"The picture {member.filename!r} has more than 8 bits a channel. Save it with 8.",
                        code="dataset_image_damaged",
                    )
                return preprocessed(image, self._preprocess)
        except RejectedInput:
            raise
        except Exception as error:  # decoders raise whatever a damaged file makes them stumble on
            raise RejectedInput(
                f"The picture {member.filename!r} cannot be decoded ({type(error).__name__}). PNG, JPEG, WebP, BMP and "
                "PPM are read; save it again as one of them, or leave it out.",
                code="dataset_image_damaged",
            ) from error

    def _listed(
        self, members: dict[str, zipfile.ZipInfo], table: str | None
    ) -> tuple[list[zipfile.ZipInfo], Array | None]:
        """The rows' pictures, and their labels."""
        if table is None:
            names = sorted(name for name in members if Path(name).suffix.lower() in _SUFFIXES)
            _check_count(len(names), self._limits)
            return [members[name] for name in names], None
        pairs = _table(_content(self._zip, members[table], _LABELS_BYTES), self._limits)
        folder = table.removesuffix(LABELS_FILE)
        rows = []
        for number, (file, _) in enumerate(pairs):
            member = members.get(folder + file.removeprefix("./"))
            if member is None:
                raise RejectedInput(
                    f"{LABELS_FILE} names {file[:200]!r} in row {number}, and the archive has no such file. Names are "
                    f"relative to {LABELS_FILE}; pack the file or drop the line.",
                    code="dataset_file_missing",
                )
            rows.append(member)
        _check_count(len(rows), self._limits)
        return rows, np.array([label for _, label in pairs], np.int64)


def preprocessed(image: Image.Image, how: Preprocess) -> Array:
    """One picture as one row: shape `how.row_shape`, dtype `how.dtype`.

    Raises RejectedInput `dataset_image_too_large`.
    """
    picture = image.convert("L" if how.colour == "L" else "RGB")
    height, width = how.size
    resampling = _FILTERS[how.interpolation]
    if how.resize == "stretch":
        picture = picture.resize((width, height), resampling)
    else:
        if how.shorter_side is not None:
            share = Fraction(how.shorter_side, min(picture.size))
        else:
            share = max(Fraction(width, picture.width), Fraction(height, picture.height))
        # Rounded as torchvision's Resize and CenterCrop do it.
        size = (int(picture.width * share), int(picture.height * share))
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        if size[0] * size[1] > _RESIZED_PIXELS:
            raise RejectedInput(
                f"A picture of {picture.width} × {picture.height} pixels would have {size[0]} × {size[1]} before it is "
                "cut to size. Leave it out, or use resize: stretch.",
                code="dataset_image_too_large",
            )
        picture = picture.resize(size, resampling).crop((left, top, left + width, top + height))
    pixels: Array = np.asarray(picture).reshape(height, width, how.channels)
    if how.colour == "BGR":
        pixels = pixels[:, :, ::-1]
    if how.dtype == "float32":
        scaled = pixels.astype(np.float32) * np.float32(how.scale)
        pixels = (scaled - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    if how.layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)


def _contents(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], str | None]:
    """Every file by its normal name, and the name of the table of labels."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = safe_name(member.filename)
        if (why := forbidden(member)) is not None:
            raise unsafe(f"The dataset's member {name!r} is {why}.")
        if member.is_dir() or is_litter(name):
            continue
        if name in members:
            raise unsafe(f"The dataset has two members called {name!r}.")
        members[name] = member
    tables = [name for name in members if name.rsplit("/", 1)[-1] == LABELS_FILE]
    if len(tables) > 1:
        raise RejectedInput(
            f"The archive has {len(tables)} files called {LABELS_FILE}. Keep one, with the names of all pictures.",
            code="dataset_labels_invalid",
        )
    return members, tables[0] if tables else None


def _check_count(rows: int, limits: InputLimits) -> None:
    if rows == 0:
        raise RejectedInput(
            f"The dataset has no pictures. List them in {LABELS_FILE}, columns file and label.", code="dataset_empty"
        )
    if rows > limits.rows:
        raise RejectedInput(
            f"The dataset has {rows} pictures, and at most {limits.rows} are taken.", code="archive_too_large"
        )


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """A member's bytes, of which there are no more than `most`."""
    try:
        with archive.open(member) as stream:
            content = stream.read(most + 1)
    except (*DAMAGE, NotImplementedError, RuntimeError) as error:
        raise RejectedInput(
            f"The member {member.filename!r} is damaged or was cut off. Pack the dataset again and upload the "
            "whole file.",
            code="truncated",
        ) from error
    if len(content) > most:
        raise RejectedInput(
            f"The member {member.filename!r} is larger than {human_bytes(most)} once unpacked. Make it smaller.",
            code="archive_too_large",
        )
    return content


def _table(content: bytes, limits: InputLimits) -> list[tuple[str, int]]:
    """File and label of each row. Raises RejectedInput `dataset_labels_invalid` or `archive_too_large`."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig")), strict=True)
        columns = [column.strip().lower() for column in reader.fieldnames or ()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _invalid("is no UTF-8 text of comma-separated values") from error
    if not {"file", "label"} <= set(columns):
        raise _invalid(f"begins with the columns {', '.join(columns[:8]) or 'none'}")
    reader.fieldnames = columns
    pairs = []
    try:
        for number, line in enumerate(reader):
            if number >= limits.rows:
                _check_count(number + 1, limits)
            pairs.append((line["file"] or "", _label(line["label"], number)))
    except csv.Error as error:
        raise _invalid("is no table of comma-separated values") from error
    return pairs


def _label(text: str | None, row: int) -> int:
    try:
        label = int(text or "")
    except ValueError:
        label = _LABEL_BOUND
    if abs(label) >= _LABEL_BOUND:
        raise _invalid(f"has the label {(text or '')[:50]!r} in row {row}, which is no whole number")
    return label


def _invalid(why: str) -> RejectedInput:
    return RejectedInput(
        f"{LABELS_FILE} {why}. It needs a first line `file,label`, then a file name and a whole number a line: the "
        "position of the class in the model's output.",
        code="dataset_labels_invalid",
    )
