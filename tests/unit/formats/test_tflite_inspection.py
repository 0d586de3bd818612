"""TFLite files are described without being loaded, and nothing in them is believed."""

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from app.domain.model import ModelInspection
from app.errors import RejectedInput
from tests.unit.formats.rejections import rejected
from tests.unit.formats.test_inspection_steps import asked
from workers.formats.limits import InputLimits
from workers.formats.tflite.inspection import inspect_tflite, unique_names
from workers.formats.tflite.operators import OPERATORS
from workers.runtimes.session import load

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (extra `tflite`)")

from ai_edge_litert import schema_py_generated as schema

from tests.parts import tflite_models
from tests.parts.tflite_models import save


def inspected(content: bytes, folder: Path, **limits: Any) -> ModelInspection:
    return inspect_tflite(save(content, folder / "model.tflite"), limits=InputLimits(**limits))


def test_it_is_described(tmp_path: Path) -> None:
    found = inspected(tflite_models.dense(), tmp_path)

    assert found.format == "tflite"
    assert found.files == ("model.tflite",)
    assert [str(spec) for spec in found.inputs] == ["x: float32[?, 4]"]
    assert [str(spec) for spec in found.outputs] == ["scores: float32[?, 3]"]
    assert found.operators == {"FULLY_CONNECTED": 1, "SOFTMAX": 1}
    assert found.parameters == 4 * 3 + 3
    assert (found.dynamic, found.quantized, found.external_data) == (True, False, False)
    assert (found.opset, found.opsets) == (None, {})


def test_what_is_quantized_says_so(tmp_path: Path) -> None:
    found = inspected(tflite_models.quantized_relu(), tmp_path)

    assert found.quantized
    assert not found.dynamic
    assert found.inputs[0].dtype == "int8"
    assert "Already quantized." in found.notes


@pytest.mark.parametrize("content", [tflite_models.dense(), tflite_models.quantized_relu()])
def test_litert_sees_the_same_inputs_and_outputs(content: bytes, tmp_path: Path) -> None:
    found = inspected(content, tmp_path)
    session = load(tmp_path / "model.tflite", runtime="litert")

    for specs, ports in ((found.inputs, session.inputs), (found.outputs, session.outputs)):
        assert [(spec.name, spec.dtype, spec.shape) for spec in specs] == [
            (port.name, port.dtype, port.shape) for port in ports
        ]


def test_the_names_of_operators_are_the_schema_s() -> None:
    codes = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}

    assert dict(enumerate(OPERATORS)) == codes


def test_operators_of_nobody_are_named(tmp_path: Path) -> None:
    found = inspected(tflite_models.custom("MyOwnOperator"), tmp_path)

    assert found.operators == {"MyOwnOperator": 1}
    assert any("MyOwnOperator" in note for note in found.notes)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (["a", "a", "a"], ("a", "a_2", "a_3")),
        (["a", "a_2", "a"], ("a", "a_2", "a_3")),
        (["a", "a", "a_2"], ("a", "a_3", "a_2")),
        (["", ""], ("unnamed", "unnamed_2")),
    ],
)
def test_names_are_made_unique(names: list[str], expected: tuple[str, ...]) -> None:
    assert unique_names(names) == expected


def test_very_many_equal_names_take_no_time() -> None:
    assert len(set(unique_names(["a"] * 4096))) == 4096


# What is refused


def test_another_format(tmp_path: Path) -> None:
    with rejected("not_tflite", "PNG".lower()):
        inspected(b"\x89PNG\r\n\x1a\n" + bytes(100), tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9])
def test_a_file_that_was_cut_off(share: float, tmp_path: Path) -> None:
    content = tflite_models.dense()

    with rejected("invalid_model", "cut off"):
        inspected(content[: max(8, int(len(content) * share))], tmp_path)


@pytest.mark.parametrize("content", [tflite_models.dense(), tflite_models.quantized_relu(), tflite_models.custom()])
def test_damage_anywhere_is_a_coded_error_or_none_at_all(content: bytes, tmp_path: Path) -> None:
    """Every 32-bit word set to values that lead astray, then random bytes."""
    outcomes = {"described": 0, "rejected": 0}
    chance = random.Random(0)
    damaged = []
    for place in range(8, len(content) - 4, 4):
        for value in (0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, len(content) - place, 0x8000_0000):
            damaged.append(content[:place] + struct.pack("<I", value) + content[place + 4 :])
    for _ in range(500):
        altered = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            altered[chance.randrange(8, len(altered))] = chance.randrange(256)
        damaged.append(bytes(altered))
    for candidate in damaged:
        try:
            inspected(candidate, tmp_path)
            outcomes["described"] += 1
        except RejectedInput:
            outcomes["rejected"] += 1
    assert outcomes["rejected"] > 100
    assert outcomes["described"] > 100, "much of a file is padding or numbers that may be anything"


def _changed(content: bytes, change: Any) -> bytes:
    """A model with something else in its tables, written again."""
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _set(target: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(target, name, value)


@pytest.mark.parametrize(
    ("code", "words", "change"),
    [
        ("invalid_model", "version", lambda model: _set(model, version=4)),
        ("invalid_model", "graph", lambda model: _set(model, subgraphs=[])),
        ("invalid_model", "no output", lambda model: _set(model.subgraphs[0], outputs=[])),
        ("invalid_model", "input does not exist", lambda model: _set(model.subgraphs[0], inputs=[99])),
        ("invalid_model", "tensor that does not exist",
         lambda model: _set(model.subgraphs[0].operators[0], inputs=[77])),
        ("invalid_model", "no type", lambda model: _set(model.subgraphs[0].operators[0], opcodeIndex=9)),
        ("invalid_model", "less than nothing", lambda model: _set(model.subgraphs[0].tensors[0], shape=[-5, 4])),
        ("invalid_model", "stored nowhere", lambda model: _set(model.subgraphs[0].tensors[0], buffer=50)),
        ("invalid_model", "'weights' has 48 bytes and needs 4800",
         lambda model: _set(model.subgraphs[0].tensors[1], shape=[300, 4])),
        ("invalid_model", "unusable name", lambda model: _set(model.subgraphs[0].tensors[0], name="a\nb")),
        ("invalid_model", "element type", lambda model: _set(model.subgraphs[0].tensors[0], type=99)),
        ("invalid_model", "behind the end", lambda model: _set(model.buffers[1], offset=10_000, size=48, data=None)),
        ("unsupported_operator", "number 5000", lambda model: _set(model.operatorCodes[0], builtinCode=5000)),
        ("unsupported_input_type", "string",
         lambda model: _set(model.subgraphs[0].tensors[0], type=schema.TensorType.STRING)),
        ("model_needs_too_much_memory", "GiB",
         lambda model: _set(model.subgraphs[0].tensors[3], shape=[1 << 20, 1 << 14])),
    ],
)  # fmt: skip
def test_what_does_not_hold_together(code: str, words: str, change: Any, tmp_path: Path) -> None:
    with rejected(code, words):
        inspected(_changed(tflite_models.dense(), change), tmp_path)


def test_more_tensors_than_are_taken(tmp_path: Path) -> None:
    with rejected("model_too_complex", "5 tensors"):
        inspected(tflite_models.dense(), tmp_path, nodes=5)


# The step


def test_an_upload_is_inspected_and_tried(tmp_path: Path) -> None:
    save(tflite_models.dense(), tmp_path / "inputs/file")

    told, folder = asked(tmp_path, "inspect_model", {"path": "inputs/file", "file_name": "dense.tflite"})

    assert told[-1] == {"done": "inspect_model-1"}
    found = ModelInspection.model_validate_json((folder / "result.json").read_text())
    assert (found.format, found.files) == ("tflite", ("dense.tflite",))
    assert not any("not tried" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (tflite_models.custom(), "unsupported_operator"),
        (tflite_models.dense()[:200], "invalid_model"),
        # Well formed, but the layer's weights do not fit its input.
        (_changed(tflite_models.dense(), lambda model: _set(model.subgraphs[0].tensors[0], shape=[1, 7])),
         "invalid_model"),
    ],
)  # fmt: skip
def test_an_upload_that_litert_cannot_load_is_rejected(content: bytes, code: str, tmp_path: Path) -> None:
    save(content, tmp_path / "inputs/file")

    told, _ = asked(tmp_path, "inspect_model", {"path": "inputs/file", "file_name": "net.tflite"})

    assert told[-1]["code"] == code
