"""One operator call of a graph, read out of its message once."""

from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Domains whose operators are looked up by type alone."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its inputs by name ("" where one is left out), and attributes as Python values, text as str."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @classmethod
    def read(cls, node: NodeProto) -> "Node":
        """Read a node's message."""
        return cls(
            name=node.name or (node.output[0] if node.output else node.op_type),
            op_type=node.op_type,
            domain=node.domain,
            inputs=tuple(node.input),
            outputs=tuple(node.output),
            attributes={entry.name: _plain(helper.get_attribute_value(entry)) for entry in node.attribute},
        )

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.attributes.get(name, default)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [entry.decode() for entry in value]
    return value
