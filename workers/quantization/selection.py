"""Which nodes a recipe means: operator types to quantize, and nodes to keep in float."""

import difflib
import fnmatch
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

from onnx import ModelProto, TensorProto

from app.domain.recipe import KeepFloat, OperatorType
from app.errors import StepError
from workers.formats.onnx.graph import all_nodes, graphs

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_MOST_TOLD = 5
_MOST_COMPARED = 1000


def resolve_keep_float(model: ModelProto, keep_float: KeepFloat) -> set[str]:
    """The names of the nodes that a recipe keeps in float, nested bodies included.

    Raises StepError `keep_float_matches_nothing`, with near matches of the first few, for entries that fit no node.
    """
    return set().union(*resolve_nodes(model, keep_float, "keep_float", code="keep_float_matches_nothing"))


def resolve_nodes(
    model: ModelProto, entries: Sequence[str | OperatorType], place: str, *, code: str = "nodes_match_nothing"
) -> list[set[str]]:
    """The names of the nodes that each entry means; `place` is where the recipe has them.

    Raises StepError with `code`, with near matches of the first few, for entries that fit no node.
    """
    by_type: dict[str, set[str]] = defaultdict(set)
    for node in all_nodes(model):
        by_type[node.op_type].add(node.name)
    names = sorted({name for found in by_type.values() for name in found})
    meant: list[set[str]] = []
    wrong: list[str | OperatorType] = []
    for entry in entries:
        found = by_type.get(entry.op_type, set()) if isinstance(entry, OperatorType) else _matching(entry, names)
        meant.append(found)
        if not found:
            wrong.append(entry)
    if wrong:
        told = "; ".join(_told(entry, names, sorted(by_type)) for entry in wrong[:_MOST_TOLD])
        more = f"; and {len(wrong) - _MOST_TOLD} more entries" if len(wrong) > _MOST_TOLD else ""
        raise StepError(
            f"{place} matches no node of the model: {told}{more}. "
            "Use node names, shell patterns of them, or {op_type: …}.",
            code=code,
        )
    return meant


def _matching(entry: str, names: Sequence[str]) -> set[str]:
    """The names that an entry means, among sorted ones. It may itself be a name with the characters of a pattern."""
    place = bisect_left(names, entry)
    if place < len(names) and names[place] == entry:
        return {entry}
    plain = re.split(r"[*?[]", entry, maxsplit=1)[0]
    if plain == entry:
        return set()
    # All that begins alike lies together, so that a thousand patterns need not look at every name.
    first = bisect_left(names, plain)
    alike = takewhile(lambda name: name.startswith(plain), islice(names, first, None))
    fits = re.compile(fnmatch.translate(entry)).match
    return {name for name in alike if fits(name)}


def _told(entry: str | OperatorType, names: Sequence[str], types: Sequence[str]) -> str:
    if isinstance(entry, OperatorType):
        wanted, near = f"op_type {entry.op_type!r}", difflib.get_close_matches(entry.op_type, types, 3, 0.5)
    else:
        wanted, near = repr(entry), _near(entry, names)
    return wanted + (f" (near: {', '.join(near)})" if near else "")


def _near(pattern: str, names: Sequence[str]) -> list[str]:
    plain = pattern.translate({ord(character): None for character in "*?[]"})
    # Comparing takes long, so of a large model those names are compared that stand near by the alphabet.
    middle = bisect_left(names, plain)
    compared = names[max(0, middle - _MOST_COMPARED // 2) : middle + _MOST_COMPARED // 2]
    near = difflib.get_close_matches(plain, compared, 3, 0.5)
    return near or list(islice((name for name in names if plain and plain.lower().strip("/") in name.lower()), 3))


def about_types(model: ModelProto) -> str:
    """What to do where products have stored weights of other types than float32; empty where some are float32."""
    stored = {tensor.name: tensor.data_type for graph in graphs(model.graph) for tensor in graph.initializer}
    read = {name for node in all_nodes(model) if node.op_type in _PRODUCTS for name in node.input[:2]}
    types = {stored[name] for name in read if name in stored}
    if not types or TensorProto.FLOAT in types:
        return ""
    names = sorted(TensorProto.DataType.Name(found).lower().replace("double", "float64") for found in types)
    return f" (its weights are {' and '.join(names)}: export it in float32)"


def select_op_types(asked: Iterable[str], known: Sequence[str], technique: str) -> list[str]:
    """The operator types to quantize: those asked for, or all known ones where none is named.

    Raises StepError `op_type_not_quantizable` for a type that the technique has no kernel for.
    """
    asked = list(dict.fromkeys(asked))
    unknown = [name for name in asked if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 3, 0.5)
        more = f" and {len(unknown) - _MOST_TOLD} more" if len(unknown) > _MOST_TOLD else ""
        raise StepError(
            f"{technique} cannot quantize {', '.join(unknown[:_MOST_TOLD])}{more}"
            + (f" (near: {', '.join(near)})" if near else "")
            + f"; it knows {', '.join(sorted(known))}.",
            code="op_type_not_quantizable",
        )
    return asked or list(known)
