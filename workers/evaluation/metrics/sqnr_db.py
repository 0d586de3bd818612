"""`sqnr_db`: signal to quantization noise, 10·log10(Σy² / Σ(y−ŷ)²) over all rows, capped at 200 dB."""

import math

import numpy as np

from workers.evaluation.metrics.definition import Floats, RatioForm, RowMetric, Rows, by_row

CAP = 200.0
"""What stands for no noise at all; float64 sums cannot tell more apart."""


def decibel(signal: float, noise: float) -> float:
    """10·log10 of a ratio of powers, between plus and minus the cap; without noise the cap, even without a signal."""
    if noise <= 0:
        return CAP
    if signal <= 0 or not math.isfinite(noise):
        return -CAP
    return min(max(10 * math.log10(signal / noise), -CAP), CAP)


def _score(rows: Rows) -> Floats:
    """Energy of signal and of noise of each row: [rows, 2].

    Elements that the original itself leaves infinite or undefined (a mask, say) are left out.
    """
    signal, result = by_row(rows.reference), by_row(rows.artifact)
    defined = np.isfinite(signal)
    signal = np.where(defined, signal, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        noise = np.where(defined, signal - result, 0.0)
        energies = np.stack([(signal**2).sum(axis=1), (noise**2).sum(axis=1)], axis=1)
    energies[~np.isfinite(energies[:, 1])] = np.nan
    return energies


def _value(means: Floats) -> Floats:
    signal, noise = np.maximum(means[..., 0], 0.0), np.maximum(means[..., 1], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 10 * np.log10(signal / noise)
    # Without noise the artifact is perfect, even where there is no signal either.
    return np.clip(np.where(noise == 0, CAP, decibels), -CAP, CAP)


def _noise_and_signal(energies: Floats) -> tuple[Floats, Floats] | None:
    signal, noise = energies.T
    return (noise, signal) if signal.sum() > 0 else None


_OF_NOISE = RatioForm(_noise_and_signal, lambda noise: decibel(1.0, noise))

METRIC = RowMetric("sqnr_db", _score, _value, ideal=CAP, range=(-CAP, CAP), form=_OF_NOISE)
