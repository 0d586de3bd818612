"""Describe a file of torch. It is loaded for that, which runs code of its own: only in a confined child."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain.model import TORCH_TO_ONNX, UNKNOWN, Format, ModelInspection, TensorSpec
from app.errors import RejectedInput, StepError
from workers.formats.limits import InputLimits
from workers.formats.torch.archive import check_torch, torch_format, torch_kind
from workers.formats.torch.trust import NAMES

if TYPE_CHECKING:
    import torch

    from workers.formats.torch.program import Program

_QUANTIZED = ("quantized::", "quantized_decomposed::", "torchao::")
_NESTED = frozenset({"cond", "while_loop", "map_impl", "scan", "prim::If", "prim::Loop"})
_MOST_NAMES = 4096


def open_program(path: Path, kind: Format) -> "Program":
    """Load an archive of torch that `archive.check_torch` let through.

    Raises StepError `runtime_unavailable` or `model_does_not_load`, and RejectedInput `unsupported_input_type`,
    `unsupported_output_type` or `invalid_model`.
    """
    try:
        if kind == "pt2":
            from workers.formats.torch.exported import Exported

            return Exported(path)
        from workers.formats.torch.torchscript import Script

        return Script(path)
    except (ImportError, OSError) as error:
        raise StepError(
            f"torch does not load on this worker ({error}). The extra `train` of bitpress-service brings it.",
            code="runtime_unavailable",
        ) from error


def inspect_torch(
    path: Path,
    *,
    limits: InputLimits | None = None,
    progress: Callable[[float, str], None] = lambda share, message: None,
) -> ModelInspection:
    """Describe an exported program or a TorchScript module.

    Raises RejectedInput as `archive.check_torch` does, and `runtime_unavailable`, `invalid_model`, `model_too_complex`,
    `unsupported_input_type` or `unsupported_output_type`.
    """
    limits = limits or InputLimits()
    progress(0.0, "looking into the archive")
    kind, known = torch_kind(path), torch_format(path)
    if kind is None:
        raise RejectedInput(f"It is no model of torch. Upload what {TORCH_TO_ONNX} makes.", code="invalid_model")
    check_torch(path, kind, limits)
    assert known is not None, "no other kind passes the check"
    progress(0.1, "loading the model")
    try:
        program = open_program(path, known)
    except StepError as error:
        codes = {"model_does_not_load": "invalid_model"}
        raise RejectedInput(error.detail, code=codes.get(error.code, error.code)) from error
    progress(0.6, "describing the model")
    operators = Counter(_counted(program.operators(), limits.nodes))
    inputs = program.inputs
    if program.kind == "torchscript":
        from workers.formats.torch.torchscript import traced_inputs

        inputs = traced_inputs(path, inputs)
    for role, specs in (("input", inputs), ("output", program.outputs)):
        _check_ports(role, specs)
    quantized = any(name.startswith(_QUANTIZED) for name in operators)
    return ModelInspection(
        format=program.kind,
        files=(path.name,),
        inputs=inputs,
        outputs=program.outputs,
        opset=None,
        opsets={},
        parameters=_parameters(program.state()),
        operators=dict(sorted(operators.items(), key=lambda pair: (-pair[1], pair[0]))),
        quantized=quantized,
        dynamic=any(spec.shape is None or not all(isinstance(axis, int) for axis in spec.shape) for spec in inputs),
        external_data=False,
        notes=tuple(_notes(program.kind, program.notes, inputs, operators, quantized)),
    )


def _counted(names: Iterable[str], most: int) -> Iterator[str]:
    for number, name in enumerate(names):
        if number == most:
            raise RejectedInput(
                f"The model has more than {most} nodes, the most that are taken.", code="model_too_complex"
            )
        yield name


def _check_ports(role: str, specs: tuple[TensorSpec, ...]) -> None:
    from workers.formats.torch.program import FED, refuse_type

    if len(specs) > _MOST_NAMES:
        raise RejectedInput(
            f"The model has {len(specs)} {role}s, and at most {_MOST_NAMES} are taken.", code="model_too_complex"
        )
    if role == "output" and not specs:
        raise RejectedInput("The model puts out no tensor. Export it again with its outputs.", code="invalid_model")
    for spec in specs:
        if spec.dtype not in FED and spec.dtype != UNKNOWN:
            raise refuse_type(role, spec.name, spec.dtype)


def _parameters(tensors: Iterable["torch.Tensor"]) -> int:
    """Elements of all that is stored; what several share counts once."""
    seen: dict[tuple[object, ...], int] = {}
    for tensor in tensors:
        place = tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
        seen[place] = tensor.numel()
    return sum(seen.values())


def _notes(
    kind: Format, own: tuple[str, ...], inputs: tuple[TensorSpec, ...], operators: Counter[str], quantized: bool
) -> Iterator[str]:
    yield f"It is {NAMES[kind]}: measured as it is; to have it optimized, upload its ONNX export: {TORCH_TO_ONNX}."
    if quantized:
        yield "Already quantized."
    if not inputs:
        yield "Has no input: it always computes the same."
    if _NESTED & set(operators):
        yield "Has nested bodies."
    yield from own
