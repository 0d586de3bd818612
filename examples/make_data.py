"""Cut the shipped calibration, tuning and evaluation images out of Fashion-MNIST.

Usage: `python examples/make_data.py [--source FOLDER] [--into FOLDER]`, with Debian's package
`dataset-fashion-mnist` installed; numpy is all it needs. The arrays come out the same everywhere, and the files
too where zlib is the same.

The order of images is that of the SHA-256 of their pixels: as good as shuffled, the same with every version of
numpy, and the digest is at hand anyway because images that occur twice are dropped by it.
"""

import argparse
import gzip
import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SOURCE = Path("/usr/share/datasets/fashion-mnist")

HELD_OUT = 5_000
"""Images of the training split that no model trains on: calibration and tuning are cut from them, and the rest
is what architectures and epochs were chosen by, so that the test split stayed unseen until the end."""

CALIBRATION, TUNING, EVALUATION = 256, 500, 3_000


@dataclass(frozen=True)
class Images:
    """Pixels as published (uint8, [N, 28, 28]) and their classes (int64, [N], 0 to 9)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int] | slice) -> "Images":
        """The given rows, in the given order."""
        return Images(self.pixels[rows], self.labels[rows])

    def tensor(self) -> NDArray[np.float32]:
        """What the models take: float32 [N, 1, 28, 28], pixel / 255, so 0 is background and 1 is white."""
        return (self.pixels.astype(np.float32) / np.float32(255))[:, np.newaxis]


@dataclass(frozen=True)
class Split:
    """Fashion-MNIST by use. No image of one field occurs, pixel for pixel, in another, except that `test` is the
    whole test split as published and so contains `evaluation`."""

    training: Images
    held_out: Images
    calibration: Images
    tuning: Images
    evaluation: Images
    test: Images


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes (the format is described at yann.lecun.com/exdb/mnist)."""
    data = gzip.decompress(path.read_bytes())
    kind, axes = struct.unpack_from(">HBB", data)[1:]
    if kind != 0x08:
        raise ValueError(f"{path}: element type 0x{kind:02x}, expected unsigned bytes (0x08)")
    shape = struct.unpack_from(f">{axes}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_images(source: Path, part: str) -> Images:
    """Read the images and labels of one part, `train` (60,000) or `t10k` (10,000)."""
    return Images(
        read_idx(source / f"{part}-images-idx3-ubyte.gz"),
        read_idx(source / f"{part}-labels-idx1-ubyte.gz").astype(np.int64),
    )


def split(source: Path = SOURCE) -> Split:
    """Give every image of Fashion-MNIST its use."""
    train, test = read_images(source, "train"), read_images(source, "t10k")
    train_digests, test_digests = digests(train), digests(test)
    occurrences = Counter(train_digests + test_digests)

    def unique_rows(of: list[bytes]) -> list[int]:
        return sorted((row for row, digest in enumerate(of) if occurrences[digest] == 1), key=of.__getitem__)

    train_rows, test_rows = unique_rows(train_digests), unique_rows(test_digests)
    held_out = train.take(train_rows[:HELD_OUT])
    return Split(
        training=train.take(train_rows[HELD_OUT:]),
        held_out=held_out,
        calibration=held_out.take(slice(0, CALIBRATION)),
        tuning=held_out.take(slice(CALIBRATION, CALIBRATION + TUNING)),
        evaluation=test.take(test_rows[:EVALUATION]),
        test=test,
    )


def digests(images: Images) -> list[bytes]:
    """The SHA-256 of each image's 784 pixels."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images.pixels]


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut the shipped images out of Fashion-MNIST.")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the four published .gz files")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="folder to write the .npz to")
    arguments = parser.parse_args()
    parts = split(arguments.source)
    for role in ("calibration", "tuning", "evaluation"):
        images: Images = getattr(parts, role)
        path = arguments.into / f"{role}.npz"
        np.savez_compressed(path, image=images.tensor(), labels=images.labels)
        print(f"{path.name}: {len(images)} images, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
