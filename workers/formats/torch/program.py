"""A program of torch that is loaded: what goes in and out of it, and one way to call it.

Everything here imports torch, which takes 1.7 s: import it where a file of torch is at hand.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from app.domain.model import TORCH_TO_ONNX, Format, TensorSpec
from app.errors import RejectedInput, StepError

FED = frozenset(
    {"float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}
)
"""Types that torch and NumPy both have."""

_LONGEST_NAME = 512
_NO_MEMORY = re.compile(r"can't allocate memory|bad_alloc|not enough memory")


class Program(Protocol):
    """A loaded program. Names and shapes are those of the file; `fixed` says what is fed besides its inputs, in words.

    `nodes` are the operators that a call runs, as (name, operator), in their order, where the file tells; else nothing.
    """

    kind: Format
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def call(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run it on a tensor for each input; a tensor for each output. Raises whatever torch raises."""
        ...

    def state(self) -> Iterator[torch.Tensor]:
        """Every tensor that it stores; shared ones may come more than once."""
        ...

    def operators(self) -> Iterator[str]:
        """The operator of each node, those of nested bodies included."""
        ...


def dtype_name(dtype: torch.dtype) -> str:
    """A type as NumPy names it."""
    return str(dtype).removeprefix("torch.")


def refuse_type(role: str, name: str, found: str) -> RejectedInput:
    """The refusal of an input or output that rows cannot hold."""
    return RejectedInput(
        f"The model's {role} {name[:100]!r} is {found[:100]}, which rows cannot hold. Export it with one tensor of "
        f"floats or integers there, in place of lists, dictionaries and other types.",
        code=f"unsupported_{role}_type",
    )


def clean_name(name: str) -> str:
    """A name that can be kept in a database and shown. Raises RejectedInput `invalid_model`."""
    if not name or len(name) > _LONGEST_NAME or any(ord(character) < 32 for character in name):
        raise RejectedInput(
            f"The model calls an input, output or operator {name[:50]!a}, which is no usable name. Export it again.",
            code="invalid_model",
        )
    return name


def does_not_load(error: Exception, path: Path) -> StepError:
    """What torch has to say about a file that it does not load. Raises MemoryError where that is the reason."""
    raise_if_out_of_memory(error)
    return StepError(
        f"torch {torch.__version__} cannot load the model: {plain(error, path)} Save it again with torch 2.13, or "
        f"export it to ONNX: {TORCH_TO_ONNX}.",
        code="model_does_not_load",
    )


def raise_if_out_of_memory(error: Exception) -> None:
    """Raise MemoryError for an error of torch's that means it."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        raise MemoryError("torch ran out of memory") from error


def plain(error: Exception, path: Path | None = None) -> str:
    """An error's own words on one line, without the file's place, torch's source lines or its traces."""
    text = str(error) or type(error).__name__
    if path is not None:
        text = text.replace(str(path.parent) + "/", "")
    text = re.sub(r"Exception raised from .*", "", text, flags=re.DOTALL)
    # TorchScript tells its own trace first, and the error last.
    text = re.sub(r"^The following operation failed in the TorchScript.*\n[\w.]+: ", "", text, flags=re.DOTALL)
    text = re.sub(r"\n\s*File \"[^\n]*", "\n", text)
    text = re.sub(r"[\w./-]+/[\w.-]+\.(?:cpp|h|py)[:\d]*", "", text)
    text = " ".join(text.split())
    text = text if len(text) <= 400 else text[:399] + "…"
    return text if text.endswith((".", "…", "!", "?")) else text + "."
