"""How a static 8-bit artifact will do on processors that multiply bytes otherwise than this one."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.errors import StepError
from workers.quantization.emulation.prediction import OutputPrediction, Prediction, predict
from workers.quantization.technique import Produced
from workers.runtimes.session import Array, available_threads
from workers.steps.rows import Rows

MOST_ROWS = 4
SECONDS = 10.0
"""No further row is begun after this time."""
WORST_LAYERS = 10


class Numerics(BaseModel):
    """What emulation tells of an artifact, from `rows` calls; dB as `workers.quantization.emulation.prediction` has it.

    `exact` is what processors with VNNI or AMX give, and ARM's; `saturating` those of x86 without. `layers` are those
    that saturation harms most.
    """

    rows: int
    outputs: tuple[dict[str, Any], ...]
    layers: tuple[dict[str, Any], ...]


def numerics_of(produced: Produced, original: Path, rows: Rows) -> tuple[Numerics | None, str]:
    """Emulate an artifact with and without saturation on the first rows, and say in a sentence what comes of it."""
    feeds = _Feeds(rows)
    try:
        found = predict(
            produced.file,
            original,
            feeds.limited(),
            session_options=produced.session_options,
            threads=available_threads(),
        )
    except StepError as error:  # an operator without an emulation, say: no fault of the artifact
        return None, f"How it does on other processors is not known: {error.detail}"
    numerics = Numerics(
        rows=feeds.given,
        outputs=tuple(asdict(output) for output in found.outputs),
        layers=tuple(asdict(layer) for layer in found.layers[:WORST_LAYERS] if layer.saturated),
    )
    return numerics, note_of(found)


class _Feeds:
    """The first calls of a dataset, until there are enough or time is up."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.given = 0

    def limited(self) -> Iterator[Mapping[str, Array]]:
        end = time.monotonic() + SECONDS
        size = self._rows.size(1)
        for feed in self._rows.feeds(size, 0, MOST_ROWS * size):
            if self.given and time.monotonic() > end:
                return
            self.given += 1
            yield feed


def note_of(found: Prediction) -> str:
    """What comes of a prediction, in a sentence."""
    if not any(layer.saturated for layer in found.layers):
        return "Gives the same on processors with and without VNNI: nothing saturates."
    layer = found.layers[0]
    share = f"{100 * layer.saturated:.2g} % of its pairs"
    if not found.outputs:
        return (
            f"Without VNNI sums saturate, by emulation, most of all in {layer.name!r} ({share}); what that does to the "
            "outputs is not known, for none of them is of a floating type."
        )
    worst: OutputPrediction = min(found.outputs, key=lambda output: output.saturating_sqnr_db)
    return (
        f"With VNNI the SQNR of {worst.name!r} is {worst.exact_sqnr_db:.1f} dB, without {worst.saturating_sqnr_db:.1f} "
        f"dB, by emulation; the rest is saturation, most of it in {layer.name!r} ({share})."
    )
