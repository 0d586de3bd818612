"""Which nodes to keep in float, so that the outputs come near enough for the least work in float."""

from math import inf

from workers.evaluation.metrics.sqnr_db import decibel
from workers.quantization.sensitivity.result import LayerSensitivity, Sensitivity


def keep_precise(
    sensitivity: Sensitivity, *, count: int | None = None, target_db: float | None = None
) -> tuple[str, ...]:
    """Names of nodes to keep in float, chosen one after the other: those that save most noise for their multiply-adds
    or, where there may be only `count` of them, those that save most.

    Ends with `count`, or as soon as the predicted SQNR of the outputs reaches `target_db`; then those that it reaches
    it without are given back. Raises ValueError where neither is given.
    """
    if count is None and target_db is None:
        raise ValueError("say how many nodes, or which SQNR to reach")
    choice = _Choice(sensitivity, by_work=count is None)
    goal = inf if target_db is None else target_db
    while choice.predicted_db() < goal and (count is None or len(choice.kept) < count) and choice.left():
        choice.kept.append(max(choice.left(), key=choice.worth).node)
    if choice.predicted_db() >= goal:
        choice.give_back(goal)
    return tuple(choice.kept)


def predicted_db(sensitivity: Sensitivity, kept: tuple[str, ...]) -> float:
    """SQNR of the outputs with these nodes in float, by the additive model."""
    choice = _Choice(sensitivity)
    choice.kept.extend(kept)
    return choice.predicted_db()


class _Choice:
    def __init__(self, sensitivity: Sensitivity, *, by_work: bool = True) -> None:
        self._by_work = by_work
        self._layers = sensitivity.layers
        self._frees = {layer.node: set(layer.frees) for layer in sensitivity.layers}
        self._noise = {origin.key: origin.noise for origin in sensitivity.origins}
        self._held_by = {origin.key: set(origin.held_by) for origin in sensitivity.origins}
        self._total = 10 ** (-sensitivity.total.sqnr_db / 10)
        self.kept: list[str] = []

    def predicted_db(self) -> float:
        freed = self._freed(set(self.kept))
        left = sum(noise for key, noise in self._noise.items() if key not in freed)
        return decibel(1.0, self._total * left / (sum(self._noise.values()) or 1.0))

    def left(self) -> list[LayerSensitivity]:
        return [layer for layer in self._layers if layer.node not in self.kept]

    def worth(self, layer: LayerSensitivity) -> float:
        """Noise saved, by the work where that counts; its part of what others hold too, since it takes them all."""
        kept = set(self.kept)
        freed = self._freed(kept)
        saved = sum(self._noise[key] for key in self._frees[layer.node] - freed)
        for key, holders in self._held_by.items():
            if key not in freed and key not in self._frees[layer.node] and layer.node in holders:
                saved += self._noise[key] / len(holders - kept)
        return saved / (layer.multiply_adds + layer.elements) if self._by_work else saved

    def give_back(self, goal: float) -> None:
        for node in list(self.kept):
            self.kept.remove(node)
            if self.predicted_db() < goal:
                self.kept.append(node)

    def _freed(self, kept: set[str]) -> set[str]:
        alone = {key for node in kept for key in self._frees.get(node, ())}
        return alone | {key for key, holders in self._held_by.items() if holders and holders <= kept}
