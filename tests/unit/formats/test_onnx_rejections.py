"""Every way in which a model cannot be used has a code of its own and a sentence that helps."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from app.errors import RejectedInput
from tests.parts import models
from tests.parts.models import model, save, tensor, value
from tests.unit.formats.rejections import rejected
from workers.formats.limits import InputLimits
from workers.formats.onnx.inspection import inspect_onnx
from workers.formats.onnx.message import load_model

WHOLE = models.mlp().SerializeToString()


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    return path


def one_node(op_type: str, *, opset: int = 17, domain: str = "", name: str = "first") -> ModelProto:
    domains = [(domain, 1)] if domain else []
    node = helper.make_node(op_type, ["x"], ["y"], name=name, domain=domain)
    return model([node], [value("x", ["n", 4])], [value("y", ["n", 4])], opset=opset, domains=domains)


# The file itself


def test_an_empty_file(tmp_path: Path) -> None:
    with rejected("empty_file", "Upload the whole"):
        load_model(write(tmp_path, b""))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello, this is a text\n" * 40, "not an ONNX model"),
        (b"PK\x03\x04" + bytes(200), "ZIP archive"),
        (b"\x80\x04\x95" + bytes(100), "pickle"),
        (bytes(4) + b"TFL3" + bytes(100), "TFLite"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "tf2onnx"),
        (bytes(1000), "not an ONNX model"),
        (b"\xff" * 1000, "not an ONNX model"),
    ],
)
def test_something_else(content: bytes, words: str, tmp_path: Path) -> None:
    with rejected("not_onnx", words):
        load_model(write(tmp_path, content))


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off(kept: float, tmp_path: Path) -> None:
    with rejected("truncated", "cut off"):
        load_model(write(tmp_path, WHOLE[: int(len(WHOLE) * kept)]))


def test_a_file_cut_off_right_after_its_graph(tmp_path: Path) -> None:
    made = models.mlp()
    del made.opset_import[:]
    with rejected("truncated", "operator set"):
        load_model(write(tmp_path, made.SerializeToString()))


def test_a_file_damaged_inside(tmp_path: Path) -> None:
    at = WHOLE.index(b"dense/MatMul")
    with rejected("invalid_model", "damaged"):
        load_model(write(tmp_path, WHOLE[: at - 1] + b"\xff" + WHOLE[at:]))


def test_a_file_beyond_what_protobuf_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    length = 3 << 30
    varint = bytes([*(length >> shift & 127 | 128 for shift in (0, 7, 14, 21)), length >> 28])
    with path.open("wb") as file:
        file.write(b"\x08\x08\x3a" + varint)
        file.truncate(3 + len(varint) + length)  # sparse: takes no disk
        file.seek(0, 2)
        file.write(b"\x42\x02\x10\x11")
    with rejected("model_too_large", "external data"):
        load_model(path)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_no_beginning_of_a_model_is_taken_for_one(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(RejectedInput):
        load_model(write(Path(folder), WHOLE[:length]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_altered_bytes_raise_nothing_but_rejections(data: st.DataObject) -> None:
    small = one_node("Relu").SerializeToString()
    content = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder, suppress(RejectedInput):
        inspect_onnx(write(Path(folder), bytes(content)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"\x08\x08")
@example(b":\x00B\x00")
@example(b"\x08\x08:\x00B\x02\x10\x11")
def test_any_bytes_raise_nothing_but_rejections(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(RejectedInput):
        inspect_onnx(write(Path(folder), content))


# Versions and operators


def test_an_opset_too_old(tmp_path: Path) -> None:
    with rejected("opset_too_old", "opset 6", "convert_version"):
        inspect_onnx(save(one_node("Relu", opset=6), tmp_path / "model.onnx"))


def test_the_oldest_opset_that_works(tmp_path: Path) -> None:
    assert inspect_onnx(save(one_node("Relu", opset=7), tmp_path / "model.onnx")).opset == 7


def test_an_opset_too_new(tmp_path: Path) -> None:
    made = one_node("Relu")
    made.opset_import[0].version = 99
    with rejected("opset_too_new", "99"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_an_ir_version_too_new(tmp_path: Path) -> None:
    made = one_node("Relu")
    made.ir_version = 99
    with rejected("ir_version_too_new", "99", "model.ir_version"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (one_node("Frobnicate"), ["'first'", "Frobnicate", "not part of version 17"]),
        (one_node("Frobnicate", domain="my.company"), ["'first'", "my.company:Frobnicate"]),
        (one_node("Frobnicate", domain="my.company", name=""), ["The node that makes 'y'", "my.company:Frobnicate"]),
        (one_node("Gelu"), ["Gelu", "not part of version 17"]),
        (one_node("Upsample"), ["Upsample", "removed from version 17"]),
    ],
)
def test_an_unsupported_operator(made: ModelProto, words: list[str], tmp_path: Path) -> None:
    with rejected("unsupported_operator", *words):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_an_operator_without_code_for_its_element_type(tmp_path: Path) -> None:
    double = TensorProto.DOUBLE
    node = helper.make_node("Conv", ["x", "x"], ["y"], name="deep")
    made = model([node], [value("x", [1, 1, 4, 4], double)], [value("y", None, double)])
    with rejected("unsupported_operator", "'deep'", "Conv", "element types"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def broken(change: Callable[[ModelProto], object]) -> ModelProto:
    made = one_node("Relu")
    change(made)
    return made


@pytest.mark.parametrize(
    "made",
    [
        broken(lambda made: made.graph.node[0].input.__setitem__(0, "nowhere")),
        broken(lambda made: made.graph.node[0].attribute.append(helper.make_attribute("strange", 1))),
        broken(lambda made: made.graph.output.pop()),
        broken(
            lambda made: made.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[4], raw_data=b"abc"))
        ),
        broken(lambda made: made.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[-4]))),
        broken(lambda made: made.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[1 << 40] * 4))),
        broken(lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", 77)),
        broken(lambda made: setattr(made.graph.input[0], "name", "a\0b")),
        broken(lambda made: setattr(made.graph.input[0], "name", "")),
        broken(lambda made: setattr(made.graph.node[0], "op_type", "R" * 5000)),
    ],
    ids=["input", "attribute", "output", "short", "negative", "vast", "type", "nul", "unnamed", "endless"],
)
def test_a_graph_that_is_not_valid(made: ModelProto, tmp_path: Path) -> None:
    with rejected("invalid_model"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_names_that_are_not_text(tmp_path: Path) -> None:
    content = one_node("Relu", name="abcdefg").SerializeToString().replace(b"\x01x", b"\x01\xff")
    with rejected("invalid_model", "not text"):
        inspect_onnx(write(tmp_path, content))


def test_bodies_nested_beyond_reading(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        length = len(content)
        return bytes([number << 3 | 2, length & 127 | 128, length >> 7 & 127 | 128, length >> 14]) + content

    graph = b""
    for _ in range(60):
        graph = field(1, field(5, field(6, graph)))  # a graph's node, its attribute, that one's graph
    with rejected("invalid_model", "nested"):
        load_model(write(tmp_path, b"\x08\x08" + field(7, graph) + b"\x42\x02\x10\x11"))


def test_an_output_that_is_no_tensor(tmp_path: Path) -> None:
    made = one_node("SequenceConstruct")
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    with rejected("unsupported_output_type", "'y'", "sequence"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))
    made.graph.output[0].ClearField("type")
    with rejected("unsupported_output_type", "'y'", "seq"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


# External data


def external(location: str, **entries: int) -> ModelProto:
    stored = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **entries}.items():
        stored.external_data.add(key=key, value=str(text))
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return model([node], [value("x", ["n", 4])], [value("y", ["n", 4])], [stored])


def test_external_data_that_did_not_come_along(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))  # there, but not part of the upload
    with rejected("external_data_missing", "'w.bin'", ".zip"):
        inspect_onnx(save(external("w.bin"), tmp_path / "model.onnx"))


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "../w.bin", "sub/../../w.bin", "C:\\w.bin", "C:/w.bin", "sub\\w.bin", "*/_ORT_MEM_ADDR_/*", "."],
)
def test_external_data_outside_the_model_s_folder(location: str, tmp_path: Path) -> None:
    with rejected("external_data_outside", "plain file name"):
        inspect_onnx(save(external(location), tmp_path / "model.onnx"), beside=[location])


def test_external_data_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = tmp_path / "set"
    path = save(external("w.bin"), folder / "model.onnx")
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    with rejected("external_data_outside", "link"):
        inspect_onnx(path, beside=["w.bin"])


def test_external_data_in_a_nested_body_are_found(tmp_path: Path) -> None:
    made = models.branches()
    inner = made.graph.node[4].attribute[0].g.initializer[0]
    inner.ClearField("raw_data")
    inner.data_location = TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="/etc/hostname")
    with rejected("external_data_outside", "/etc/hostname"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_external_data_that_end_too_early(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(15))
    with rejected("external_data_truncated", "'w'", "15"):
        inspect_onnx(save(external("w.bin"), tmp_path / "model.onnx"), beside=["w.bin"])


def test_external_data_with_a_length_that_is_not_the_tensor_s(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    with rejected("invalid_model", "claims 17"):
        inspect_onnx(save(external("w.bin", offset=0, length=17), tmp_path / "model.onnx"), beside=["w.bin"])


# What is small as a file and large once loaded


def test_functions_that_call_each_other_without_end(tmp_path: Path) -> None:
    imports = [helper.make_opsetid("own", 1)]

    def calling(name: str, other: str) -> object:
        return helper.make_function(
            "own", name, ["a"], ["b"], [helper.make_node(other, ["a"], ["b"], domain="own")], imports
        )

    made = one_node("Ping", domain="own")
    made.functions.extend([calling("Ping", "Pong"), calling("Pong", "Ping")])
    with rejected("invalid_model", "calls itself"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_functions_that_grow_beyond_measure(tmp_path: Path) -> None:
    made = one_node("F60", domain="own")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for index in range(61):
        inner = ("Relu", "") if index == 0 else (f"F{index - 1}", "own")
        nodes = [
            helper.make_node(inner[0], ["a"], ["t"], domain=inner[1]),
            helper.make_node(inner[0], ["t"], ["b"], domain=inner[1]),
        ]
        made.functions.append(helper.make_function("own", f"F{index}", ["a"], ["b"], nodes, imports))
    with rejected("model_too_complex", "200000"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_a_sparse_tensor_that_would_fill_the_memory(tmp_path: Path) -> None:
    sparse = SparseTensorProto(dims=[1 << 20, 1 << 20])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    made = one_node("Relu")
    made.graph.sparse_initializer.append(sparse)
    with rejected("model_too_large", "4096.0 GiB"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_a_graph_is_judged_before_its_constants_are_folded(tmp_path: Path) -> None:
    """A file of 200 bytes whose folding would take 40 GB is refused for its operator, with nothing computed."""
    nodes = [
        helper.make_node("ConstantOfShape", ["vast"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["h"]),
        helper.make_node("Frobnicate", ["h"], ["y"]),
    ]
    made = model(nodes, [value("x", ["n"])], [value("y", ["n"])], [tensor("vast", [10_000_000_000], np.int64)])
    with rejected("unsupported_operator", "Frobnicate"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_more_inputs_than_are_described(tmp_path: Path) -> None:
    names = [f"x{index}" for index in range(5000)]
    made = model([helper.make_node("Sum", names, ["y"])], [value(name, [1]) for name in names], [value("y", [1])])
    with rejected("model_too_complex", "5000 inputs"):
        inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_limits_are_the_caller_s(tmp_path: Path) -> None:
    made = models.mlp()
    made.functions.append(helper.make_function("own", "Unused", ["a"], ["b"], [], [helper.make_opsetid("", 17)]))
    made.opset_import.append(helper.make_opsetid("own", 1))
    path = save(made, tmp_path / "model.onnx")
    with rejected("model_too_complex"):
        inspect_onnx(path, limits=InputLimits(nodes=3))
