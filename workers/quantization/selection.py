"""Which nodes a recipe means: operator types to quantize, and nodes to keep in float."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from onnx import ModelProto

from app.domain.recipe import KeepFloat, OperatorType
from app.errors import StepError
from workers.formats.onnx.graph import all_nodes


def resolve_keep_float(model: ModelProto, keep_float: KeepFloat) -> set[str]:
    """The names of the nodes that a recipe keeps in float, nested bodies included.

    Raises StepError `keep_float_matches_nothing`, with near matches, for every entry that fits no node.
    """
    return set().union(*resolve_nodes(model, keep_float, "keep_float", code="keep_float_matches_nothing"))


def resolve_nodes(
    model: ModelProto, entries: Sequence[str | OperatorType], place: str, *, code: str = "nodes_match_nothing"
) -> list[set[str]]:
    """The names of the nodes that each entry means; `place` is where the recipe has them.

    Raises StepError with `code`, with near matches, for every entry that fits no node.
    """
    nodes = list(all_nodes(model))
    names = dict.fromkeys(node.name for node in nodes)
    types = sorted({node.op_type for node in nodes})
    meant: list[set[str]] = []
    wrong: list[str] = []
    for entry in entries:
        if isinstance(entry, OperatorType):
            found = {node.name for node in nodes if node.op_type == entry.op_type}
            wanted, near = f"op_type {entry.op_type!r}", difflib.get_close_matches(entry.op_type, types, 3, 0.5)
        else:
            # A name may itself hold the characters of a pattern, so the name goes first.
            found = {entry} if entry in names else {name for name in names if fnmatchcase(name, entry)}
            wanted, near = repr(entry), _near(entry, names) if not found else []
        meant.append(found)
        if not found:
            wrong.append(wanted + (f" (near: {', '.join(near)})" if near else ""))
    if wrong:
        raise StepError(
            f"{place} matches no node of the model: {'; '.join(wrong)}. "
            "Use node names, shell patterns of them, or {op_type: …}.",
            code=code,
        )
    return meant


def _near(pattern: str, names: Collection[str]) -> list[str]:
    plain = pattern.translate({ord(character): None for character in "*?[]"})
    near = difflib.get_close_matches(plain, names, 3, 0.5)
    return near or [name for name in names if plain and plain.lower().strip("/") in name.lower()][:3]


def select_op_types(asked: Iterable[str], known: Sequence[str], technique: str) -> list[str]:
    """The operator types to quantize: those asked for, or all known ones where none is named.

    Raises StepError `op_type_not_quantizable` for a type that the technique has no kernel for.
    """
    asked = list(dict.fromkeys(asked))
    unknown = [name for name in asked if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 3, 0.5)
        raise StepError(
            f"{technique} cannot quantize {', '.join(unknown)}"
            + (f" (near: {', '.join(near)})" if near else "")
            + f"; it knows {', '.join(sorted(known))}.",
            code="op_type_not_quantizable",
        )
    return asked or list(known)
