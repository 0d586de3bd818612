"""Operator times of two models side by side."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.report.variants import is_number

Operator = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """What the same nodes take in the original and in an artifact, in ms an inference; null where one has none.

    `op_types` and `kernels` are the original's and the artifact's, "" where there is none; `calls` of an inference and
    `shares` of the operators' sum are theirs too. `output_bytes` are those of one call.
    """

    name: str
    op_types: tuple[str, str]
    original_ms: float | None
    artifact_ms: float | None
    kernels: tuple[str, str]
    output_bytes: int | None
    calls: tuple[float | None, float | None] = (None, None)
    shares: tuple[float | None, float | None] = (None, None)

    @property
    def op_type(self) -> str:
        """Both types, or the one."""
        return " → ".join(dict.fromkeys(filter(None, self.op_types)))

    @property
    def most_ms(self) -> float:
        return max(self.original_ms or 0.0, self.artifact_ms or 0.0)


def side_by_side(original: Sequence[Operator], artifact: Sequence[Operator]) -> list[SideBySide]:
    """Match operators by the nodes that they come from, those that take longest first.

    A runtime fuses nodes, and one of the two models otherwise than the other: what shares a node belongs together.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        path = []
        while (parent := parents.setdefault(name, name)) != name:
            path.append(name)
            name = parent
        for passed in path:
            parents[passed] = name
        return name

    for operator in (*original, *artifact):
        first, *others = names = _nodes(operator)
        for other in others:
            parents[root(other)] = root(names[0])
        root(first)
    groups: dict[str, tuple[list[Operator], list[Operator]]] = defaultdict(lambda: ([], []))
    for side, operators in enumerate((original, artifact)):
        for operator in operators:
            groups[root(_nodes(operator)[0])][side].append(operator)
    return sorted((_row(*group) for group in groups.values()), key=lambda row: -row.most_ms)


def time_by_type(rows: Iterable[SideBySide]) -> dict[str, tuple[float, float]]:
    """Milliseconds an inference in the original and in the artifact, by what the original calls the operator.

    Those of the artifact alone, such as what quantizes its inputs, go by their own type.
    """
    times: dict[str, tuple[float, float]] = {}
    for row in rows:
        kind = row.op_types[0] or row.op_types[1]
        before, after = times.get(kind, (0.0, 0.0))
        times[kind] = before + (row.original_ms or 0.0), after + (row.artifact_ms or 0.0)
    return dict(sorted(times.items(), key=lambda found: -max(found[1])))


def _nodes(operator: Operator) -> list[str]:
    """The nodes that it comes from; without any it stands for itself."""
    return [str(node) for node in operator.get("nodes") or ()] or [str(operator.get("name"))]


def _row(original: Sequence[Operator], artifact: Sequence[Operator]) -> SideBySide:
    everyone = [*original, *artifact]
    longest = max(everyone, key=lambda operator: operator["ms"] if is_number(operator.get("ms")) else 0.0)
    sizes = [operator["output_bytes"] for operator in (*artifact, *original) if is_number(operator.get("output_bytes"))]
    return SideBySide(
        name=str(longest.get("name")),
        op_types=(_types(original), _types(artifact)),
        original_ms=_total(original, "ms"),
        artifact_ms=_total(artifact, "ms"),
        kernels=(_kernels(original), _kernels(artifact)),
        output_bytes=sizes[0] if sizes else None,
        calls=(_total(original, "calls"), _total(artifact, "calls")),
        shares=(_total(original, "share"), _total(artifact, "share")),
    )


def _total(operators: Sequence[Operator], key: str) -> float | None:
    found = [float(operator[key]) for operator in operators if is_number(operator.get(key))]
    return sum(found) if found else None


def _types(operators: Sequence[Operator]) -> str:
    return " + ".join(dict.fromkeys(str(operator.get("op_type") or "?") for operator in operators))


def _kernels(operators: Sequence[Operator]) -> str:
    return " + ".join(dict.fromkeys(str(operator["kernel"]) for operator in operators if operator.get("kernel")))
