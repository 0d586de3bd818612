"""The models of the table: what is timed, what counts as agreement with fp32, and which configurations stand there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import lite0, minilm, smollm2
from benchmarks.models.workload import Feed, Run, Workload
from benchmarks.quantization.peers import OURS

BLOCKS = (64, 128)


@dataclass(frozen=True)
class Row:
    """One configuration of one maker.

    entries: session options that it is run with besides its own.
    samples: how many of the calibration rows its maker is given; None: all.
    """

    peer: str
    configuration: str
    entries: Mapping[str, str] = field(default_factory=dict)
    samples: int | None = None

    @property
    def name(self) -> str:
        shown = self.peer.replace("_", " ")
        given = "" if self.samples is None else f", calibration rows: {self.samples}"
        entries = "".join(f", {key}={value}" for key, value in self.entries.items())
        return f"{shown}: {self.configuration}{given}{entries}"


@dataclass(frozen=True)
class Task:
    """A workload in the table.

    step: the feed that is timed, given the fp32 model.
    pick: what is kept of a run's outputs to compare it with fp32's, [items, …].
    agreement: how far an item's pick is fp32's, float64 [items] of two such arrays.
    clusters: int64 [items], equal for items that are resampled together.
    """

    workload: Workload
    about: str
    step: Callable[[Run], Feed]
    pick: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
    agreement: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
    clusters: NDArray[np.int64]
    rows: Sequence[Row]

    def calibration(self, row: Row) -> Sequence[Feed]:
        return self.workload.calibration[: row.samples]


def _same(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(one == other, dtype=np.float64)


def _cosine(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Of vectors of length 1, [items, size]."""
    return np.asarray((one.astype(np.float64) * other).sum(axis=-1))


def lite0_task() -> Task:
    workload = lite0.workload()
    scored = [
        "static, defaults (S8S8)",
        "static, U8S8 per channel",
        "static, U8S8 per channel, percentile",
        "static, U8S8 per channel, entropy",
        "static, U8S8 per channel, reduce_range",
        "static, U8U8 per channel",
        "dynamic, defaults",
    ]
    rows = [Row("onnxruntime", name) for name in scored]
    rows.insert(2, Row("onnxruntime", "static, U8S8 per channel", {"session.x64quantprecision": "1"}))
    rows += [
        Row("nncf", f"int8, {name}")
        for name in (
            "defaults",
            "folded, mixed, full bias correction",
            "folded, mixed, full bias correction, overflow fix",
        )
    ]
    rows += [
        Row("quark", name) for name in ("A8W8", "A8W8, CLE and AdaRound", "uint8 × int8 per channel, CLE", "XINT8")
    ]
    rows += [Row("neural_compressor", f"static, {types} per channel") for types in ("U8S8", "U8U8")]
    rows.append(Row(OURS, "static_int8"))
    photographs = np.repeat(np.arange(len(workload.evaluation.feeds) // 4), 4)
    return Task(
        workload=workload,
        about="EfficientNet-Lite0, 100 photographs × 4 views; agreement: the same first class as fp32; latency: a view",
        step=lambda run: workload.evaluation.feeds[0],
        pick=lambda outputs: outputs["logits"].argmax(axis=-1),
        agreement=_same,
        clusters=photographs,
        rows=rows,
    )


def minilm_task() -> Task:
    workload = minilm.workload()
    rows = [
        Row("onnxruntime", name)
        for name in (
            "static, defaults (S8S8)",
            "static, U8S8 per channel",
            "static, U8S8 per channel, reduce_range",
            "dynamic, defaults",
            "dynamic, per channel, reduce_range",
        )
    ]
    rows += [Row("nncf", "int8, transformer"), Row("nncf", "int8, transformer, full bias correction")]
    rows += [Row("quark", "A8W8"), Row("quark", "uint8 × int8 per channel, CLE")]
    rows += [
        Row("neural_compressor", name)
        for name in ("static, U8S8 per channel", "static, U8U8 per channel", "SmoothQuant, U8S8 per channel")
    ]
    for technique in ("static_int8", "dynamic_int8"):
        rows += [Row(OURS, technique), Row(OURS, f"mixed, {technique}, embeddings in 8 bits")]
    rows += _four_bits(BLOCKS)
    return Task(
        workload=workload,
        about="all-MiniLM-L6-v2; agreement: cosine of embeddings with fp32's; latency: the first document of Lee",
        step=lambda run: workload.evaluation.feeds[0],
        pick=lambda outputs: outputs["embedding"],
        agreement=_cosine,
        clusters=np.arange(len(workload.evaluation.feeds)),
        rows=rows,
    )


def smollm2_task() -> Task:
    workload = smollm2.workload()
    return Task(
        workload=workload,
        about="SmolLM2-135M (its weights are dequantized 4-bit blocks of 32), windows of 512 tokens of lee_background; "
        "agreement: the same next token as fp32; latency: one token after 64",
        step=lambda run: smollm2.decode_step(run, 64),
        pick=lambda outputs: outputs["logits"][0].argmax(axis=-1),
        agreement=_same,
        clusters=np.repeat(np.arange(len(workload.evaluation.feeds)), smollm2.WINDOW),
        rows=[
            Row("onnxruntime", "dynamic, defaults"),
            Row("onnxruntime", "dynamic, per channel, reduce_range"),
            Row(OURS, "dynamic_int8"),
            *_four_bits(BLOCKS),
        ],
    )


def _four_bits(blocks: Sequence[int]) -> list[Row]:
    """GPTQ of onnxruntime with one calibration row, for it makes the same file of any (see peer/by_onnxruntime.py).

    Asymmetric, its codes are RTN's; k-quant knows no symmetric blocks. Neither is listed twice.
    """
    rows = []
    for block in blocks:
        rows += [
            Row("onnxruntime", f"4 bits, {algorithm}, {kind}, block {block}")
            for algorithm in ("default", "RTN")
            for kind in ("symmetric", "asymmetric")
        ]
        rows += [
            Row("onnxruntime", f"4 bits, k-quant, asymmetric, block {block}"),
            Row("onnxruntime", f"4 bits, GPTQ, symmetric, block {block}", samples=1),
            Row("onnxruntime", f"4 bits, HQQ, block {block}"),
            Row("nncf", f"4 bits, INT4_ASYM, awq and scale estimation, block {block} where it divides"),
        ]
        rows += [Row(OURS, f"weight_only, {algorithm}, block {block}") for algorithm in ("mse", "gptq", "awq")]
    return rows


TASKS: Mapping[str, Callable[[], Task]] = {"lite0": lite0_task, "minilm": minilm_task, "smollm2": smollm2_task}
