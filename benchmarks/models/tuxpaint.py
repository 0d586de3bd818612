"""Labelled photographs: the stamps of Debian's `tuxpaint-stamps-default`, seen four ways each.

The photographs are GPL-2: read where the package put them, never shipped. The labels beside this file, sets of
accepted ImageNet-1k classes, were made by hand for this project, and so was the split by photograph.
"""

import functools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

STAMPS = Path("/usr/share/tuxpaint/stamps")
LABELS = Path(__file__).with_name("tuxpaint_labels.json")
_PHOTOGRAPHED = frozenset(
    {
        "animals", "clothes", "food", "hobbies", "household", "medical", "military", "naturalforces", "people",
        "plants", "seasonal", "space", "sports", "town", "vehicles",
    }
)  # fmt: skip
"""Folders of the package with photographs; most others hold drawn signs."""
SIDE = 224
VIEWS = 4


@dataclass(frozen=True)
class Views:
    """Views in the order of photographs, `VIEWS` of each in turn.

    pixels: uint8 [N, 224, 224, 3], RGB. accepted: the right classes of each. photographs: int64 [N], which one a
    view is of, for a bootstrap that resamples photographs and not views.
    """

    pixels: NDArray[np.uint8]
    accepted: tuple[frozenset[int], ...]
    photographs: NDArray[np.int64]

    def take(self, rows: NDArray[np.bool_]) -> "Views":
        """The views where `rows` is true."""
        kept = tuple(found for found, wanted in zip(self.accepted, rows, strict=True) if wanted)
        return Views(self.pixels[rows], kept, self.photographs[rows])


@functools.cache
def views(split: str) -> Views:
    """`calibration` (40 photographs) or `evaluation` (100). Raises SystemExit where the package is not installed."""
    if not STAMPS.exists():
        raise SystemExit(f"{STAMPS} is missing: apt-get install tuxpaint-stamps-default")
    described: dict[str, Any] = json.loads(LABELS.read_text())
    pixels, accepted, photographs = [], [], []
    for number, (name, right) in enumerate(sorted(described[split].items())):
        with Image.open(STAMPS / f"{name}.png") as opened:
            stamp = opened.convert("RGBA")
        for view in described["views"]["list"]:
            pixels.append(_view(stamp, **view))
            accepted.append(frozenset(right))
            photographs.append(number)
    return Views(np.stack(pixels), tuple(accepted), np.array(photographs, dtype=np.int64))


def unlabelled(count: int) -> NDArray[np.uint8]:
    """Views of photographs in neither split, one of each, uint8 [count, 224, 224, 3]: what needs no labels may see."""
    described: dict[str, Any] = json.loads(LABELS.read_text())
    known, shown = {*described["calibration"], *described["evaluation"]}, described["views"]["list"]
    found = []
    for file in sorted(STAMPS.rglob("*.png")):
        name = file.relative_to(STAMPS).with_suffix("").as_posix()
        if name not in known and name.split("/")[0] in _PHOTOGRAPHED and "cartoon" not in name:
            found.append(file)
    random.Random(0).shuffle(found)
    pixels = []
    for number, file in enumerate(found[:count]):
        with Image.open(file) as opened:
            pixels.append(_view(opened.convert("RGBA"), **shown[number % len(shown)]))
    return np.stack(pixels)


def _view(stamp: Image.Image, background: list[int], flip: bool, scale: float) -> NDArray[np.uint8]:
    """As the head of the labels' file says."""
    shown = stamp.crop(stamp.getchannel("A").getbbox())
    ratio = scale * SIDE / max(shown.size)
    width, height = (max(1, round(length * ratio)) for length in shown.size)
    shown = shown.resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIDE, SIDE), tuple(background))
    canvas.paste(shown, ((SIDE - width) // 2, (SIDE - height) // 2), shown)
    return np.asarray(ImageOps.mirror(canvas) if flip else canvas)
