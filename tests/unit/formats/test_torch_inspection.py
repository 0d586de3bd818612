"""Files of torch are told by their content, refused before torch sees them, or described."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.model import ModelInspection
from app.errors import RejectedInput
from tests.unit.formats.rejections import rejected
from tests.unit.formats.test_inspection_steps import asked
from workers.formats.limits import InputLimits
from workers.formats.model_files import open_model
from workers.formats.signatures import model_format
from workers.formats.torch.archive import torch_kind
from workers.formats.torch.inspection import inspect_torch
from workers.formats.torch.trust import VARIABLE

pytest.importorskip("torch", reason="torch is not installed (extra `train`)")

import torch

from tests.parts import torch_models
from tests.parts.torch_models import Act, save

MiB = 1 << 20


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")


def inspected(content: bytes, folder: Path, **limits: Any) -> ModelInspection:
    return inspect_torch(save(content, folder / "model.pt"), limits=InputLimits(**limits))


# What it is


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lambda: torch_models.exported(torch_models.Dense()), "pt2"),
        (lambda: torch_models.scripted(torch_models.Dense()), "torchscript"),
        (lambda: torch_models.traced(torch_models.Dense()), "torchscript"),
        (lambda: torch_models.pickled(torch_models.Dense().state_dict()), "pickle"),
        (lambda: torch_models.pickled(torch_models.Dense()), "pickle"),
        (lambda: b"PK\x03\x04" + bytes(200), None),
        (lambda: b"no archive at all", None),
    ],
)
def test_it_is_told_by_its_members(content: Callable[[], bytes], kind: str | None, tmp_path: Path) -> None:
    path = save(content(), tmp_path / "model.onnx")

    assert torch_kind(path) == kind
    assert model_format(path) == (kind if kind in ("pt2", "torchscript") else "onnx")


def test_a_file_set_of_onnx_is_none_whatever_lies_beside_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("net/data.pkl", b"x")
        archive.writestr("net/model.onnx", b"x")

    assert torch_kind(tmp_path / "set.zip") is None


def test_an_exported_program_is_described(tmp_path: Path) -> None:
    module = torch_models.Words()
    found = inspected(torch_models.exported(module), tmp_path)

    assert (found.format, found.files) == ("pt2", ("model.pt",))
    assert [(spec.name, spec.dtype, spec.shape and spec.shape[1:]) for spec in found.inputs] == [
        ("ids", "int64", (5,)),
        ("weights", "float32", (5,)),
    ]
    assert [spec.name for spec in found.outputs] == ["mean", "logits"]
    assert found.parameters == sum(each.numel() for each in module.state_dict().values())
    assert found.operators["aten::embedding"] == found.operators["aten::linear"] == 1
    assert (found.dynamic, found.quantized, found.external_data) == (True, False, False)
    assert (found.opset, found.opsets) == (None, {})
    assert any("torch.onnx.export" in note for note in found.notes)


def test_sizes_that_are_fixed_or_bounded(tmp_path: Path) -> None:
    fixed = inspected(torch_models.exported(torch_models.Dense(), dynamic=False), tmp_path)
    bounded = inspected(torch_models.exported(torch_models.Dense(), most=8), tmp_path)

    assert fixed.inputs[0].shape == (2, 4)
    assert not fixed.dynamic
    assert any("to 8." in note for note in bounded.notes)


@pytest.mark.parametrize("make", [torch_models.scripted, torch_models.traced])
def test_torchscript_is_described_as_far_as_it_tells(make: Callable[[Any], bytes], tmp_path: Path) -> None:
    module = torch_models.Picture()
    found = inspected(make(module), tmp_path)

    assert found.format == "torchscript"
    [given] = found.inputs
    assert given.name == "image"
    if make is torch_models.traced:  # it keeps the type and the axes of its example
        assert (given.dtype, given.shape) == ("float32", (None, None, None, None))
    else:
        assert (given.dtype, given.shape) == ("unknown", None)
    assert [(spec.name, spec.dtype, spec.shape) for spec in found.outputs] == [("output", "unknown", None)]
    assert found.parameters == sum(each.numel() for each in module.state_dict().values())
    assert found.operators["aten::linear"] == 1
    assert sum(found.operators[name] for name in found.operators if "conv" in name) == 1
    assert found.dynamic
    assert any("does not say" in note for note in found.notes)


def test_what_is_left_at_its_default_is_noted(tmp_path: Path) -> None:
    found = inspected(torch_models.scripted(torch_models.Scaled()), tmp_path)

    assert [spec.name for spec in found.inputs] == ["x"]
    assert any("scale" in note for note in found.notes)


def test_training_mode_is_noted(tmp_path: Path) -> None:
    found = inspected(torch_models.scripted(torch_models.Picture(), training=True), tmp_path)

    assert any(".eval()" in note for note in found.notes)


def test_what_changes_itself_is_noted(tmp_path: Path) -> None:
    found = inspected(torch_models.exported(torch_models.Counter()), tmp_path)

    assert any("depend on those before" in note for note in found.notes)


def test_a_weight_that_several_share_counts_once(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))  # type: ignore[no-any-return]

    for make in (torch_models.exported, torch_models.scripted):
        assert inspected(make(Tied()), tmp_path).parameters == 16


# What is refused


def test_lists_are_no_inputs(tmp_path: Path) -> None:
    with rejected("unsupported_input_type", "'xs'", "one tensor"):
        inspected(torch_models.scripted(torch_models.Lists()), tmp_path)


def test_dictionaries_of_torchscript_are_no_outputs(tmp_path: Path) -> None:
    with rejected("unsupported_output_type", "Dict"):
        inspected(torch_models.scripted(torch_models.Words()), tmp_path)


def test_half_precision_that_numpy_lacks(tmp_path: Path) -> None:
    class Narrow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.bfloat16)

    with rejected("unsupported_output_type", "bfloat16"):
        inspected(torch_models.exported(Narrow()), tmp_path)


def test_too_many_nodes(tmp_path: Path) -> None:
    with rejected("model_too_complex", "more than 3 nodes"):
        inspected(torch_models.exported(torch_models.Picture()), tmp_path, nodes=3)


@pytest.mark.parametrize("make", [torch_models.exported, torch_models.scripted])
def test_without_the_setting_nothing_is_read(
    make: Callable[[Any], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    with rejected("torch_files_not_trusted", VARIABLE, "can run any code", "torch.onnx.export("):
        inspected(make(torch_models.Dense()), tmp_path)
    with rejected("torch_files_not_trusted"):
        open_model(tmp_path / "model.pt", tmp_path / "unpacked")


@pytest.mark.parametrize("trust", ["1", "0"])
@pytest.mark.parametrize("what", ["weights", "module", "code"])
def test_what_torch_save_writes_is_never_unpickled(
    what: str, trust: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, trust)
    canary = tmp_path / "canary"
    found = {
        "weights": torch_models.Dense().state_dict(),
        "module": torch_models.Dense(),
        "code": Act(canary),
    }
    path = save(torch_models.pickled(found[what]), tmp_path / "model.pt")

    for look in (inspect_torch, lambda path: open_model(path, tmp_path / "unpacked")):
        with rejected("pickled_model", "torch.save", "torch.onnx.export("):
            look(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists() == (what == "code"), "it would have run"


def hidden(canary: Path) -> dict[str, bytes]:
    """Programs with a pickle inside that runs code, in each place that torch unpickles."""
    plain = torch_models.exported(torch_models.Dense())

    def as_pickle(name: str, data: bytes) -> bytes:
        if not name.endswith("_weights_config.json"):
            return torch_models.pickled(Act(canary)) if name.endswith("weights/weight_0") else data
        config = json.loads(data)
        for payload in config["config"].values():
            payload["use_pickle"] = payload["path_name"] == "weight_0"
        return json.dumps(config).encode()

    def as_object(name: str, data: bytes) -> bytes:
        if not name.endswith("_constants_config.json"):
            return data
        payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        return json.dumps({"config": {"it": payload}}).encode()

    def examples(made: bytes) -> bytes:
        return torch_models.rewritten(plain, lambda name, data: made if "sample_inputs" in name else data)

    protocol_4 = io.BytesIO()
    torch.save(Act(canary), protocol_4, pickle_protocol=4)
    return {
        "example inputs": examples(torch_models.pickled(Act(canary))),
        "example inputs in protocol 4": examples(protocol_4.getvalue()),
        "example inputs without an archive": examples(torch_models.plain_pickle(Act(canary))),
        "example inputs that were packed again": examples(
            torch_models.rewritten(torch_models.pickled(((), {})), lambda name, data: data, packed=True)
        ),
        "a weight": torch_models.rewritten(plain, as_pickle),
        "an object": torch_models.with_member(
            torch_models.rewritten(plain, as_object),
            "data/constants/opaque_obj_0",
            torch_models.plain_pickle(Act(canary)),
        ),
    }


@pytest.mark.parametrize(
    "place",
    [
        "example inputs",
        "example inputs in protocol 4",
        "example inputs without an archive",
        "example inputs that were packed again",
        "a weight",
        "an object",
    ],
)
def test_a_pickle_inside_that_does_more_is_refused_unread(place: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    content = hidden(canary)[place]

    with rejected("unsafe_pickle"):
        inspected(content, tmp_path)
    assert not canary.exists()


def test_programs_that_torch_itself_writes_are_not_taken_for_such(tmp_path: Path) -> None:
    for module in (torch_models.Dense(), torch_models.Words(), torch_models.Picture(), torch_models.Counter()):
        assert inspected(torch_models.exported(module), tmp_path).format == "pt2"


@pytest.mark.parametrize("make", [torch_models.exported, torch_models.scripted])
def test_a_bomb_is_not_unpacked(make: Callable[[Any], bytes], tmp_path: Path) -> None:
    def inflate(name: str, data: bytes) -> bytes:
        return bytes(80 * MiB) if name.endswith(("weights/weight_0", "data/0")) else data

    content = torch_models.rewritten(make(torch_models.Dense()), inflate, packed=True)
    assert len(content) < MiB
    with rejected("archive_too_large", "200 times"):
        inspected(content, tmp_path)


def test_zeros_without_end_are_not_made(tmp_path: Path) -> None:
    """An empty record stands for zeros of the size that is written beside it."""

    def change(name: str, data: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return b""
        if not name.endswith("_weights_config.json"):
            return data
        config = json.loads(data)
        for payload in config["config"].values():
            if payload["path_name"] == "weight_0":
                payload["tensor_meta"]["sizes"] = [{"as_int": 1 << 20}, {"as_int": 1 << 20}]
        return json.dumps(config).encode()

    with rejected("model_needs_too_much_memory", "weight_0"):
        inspected(torch_models.rewritten(torch_models.exported(torch_models.Dense()), change), tmp_path)


@pytest.mark.parametrize("make", [torch_models.exported, torch_models.scripted])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off(make: Callable[[Any], bytes], kept: float, tmp_path: Path) -> None:
    content = make(torch_models.Dense())
    path = save(content[: int(len(content) * kept)], tmp_path / "model.pt2")

    with rejected("truncated", "cut off"):
        open_model(path, tmp_path / "unpacked")


@pytest.mark.parametrize("make", [torch_models.exported, torch_models.scripted])
def test_no_damage_escapes_as_anything_but_a_rejection(make: Callable[[Any], bytes], tmp_path: Path) -> None:
    content, rng = make(torch_models.Dense()), random.Random(13)
    found: list[RejectedInput] = []
    for number in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = save(bytes(damaged), tmp_path / "model.pt")
        try:
            if open_model(path, tmp_path / f"unpacked-{number}").main == path:
                inspect_torch(path)
        except RejectedInput as error:
            found.append(error)
    assert "truncated" in {error.code for error in found}
    assert not [error.detail for error in found if str(tmp_path) in error.detail]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda name, data: None if name.startswith("models/") else data, "archive_several_models", "0 exported"),
        (lambda name, data: b"{" if name.endswith("_weights_config.json") else data, "invalid_model", "no JSON"),
        (lambda name, data: b"[]" if name.endswith("_weights_config.json") else data, "invalid_model", "cannot be"),
        (lambda name, data: None if name.endswith("weight_0") else data, "invalid_model", "is missing"),
        (lambda name, data: b"{}" if name.startswith("models/") else data, "invalid_model", "cannot load"),
        (lambda name, data: b"99" if name == "archive_version" else data, "invalid_model", "cannot load"),
    ],
)
def test_a_program_that_does_not_add_up(
    change: Callable[[str, bytes], bytes | None], code: str, words: str, tmp_path: Path
) -> None:
    with rejected(code, words):
        inspected(torch_models.rewritten(torch_models.exported(torch_models.Dense()), change), tmp_path)


def test_torchscript_without_code_that_can_be_read(tmp_path: Path) -> None:
    content = torch_models.rewritten(
        torch_models.scripted(torch_models.Dense()),
        lambda name, data: b"class Broken(" if name.endswith(".py") else data,
    )
    with rejected("invalid_model", "cannot load"):
        inspected(content, tmp_path)


def test_compiled_libraries_are_not_loaded(tmp_path: Path) -> None:
    content = torch_models.with_member(
        torch_models.exported(torch_models.Dense()), "data/aotinductor/model/it.so", b"\x7fELF"
    )
    with rejected("invalid_model", "AOTInductor"):
        inspected(content, tmp_path)


def test_a_second_program_in_the_archive(tmp_path: Path) -> None:
    content = torch_models.with_member(torch_models.exported(torch_models.Dense()), "models/other.json", b"{}")
    with rejected("archive_several_models", "2 exported programs"):
        inspected(content, tmp_path)


def test_the_format_before_2_8(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("version", "8.3")
        archive.writestr("serialized_exported_program.json", "{}")
    with rejected("invalid_model", "before 2.8"):
        open_model(tmp_path / "model.pt2", tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("member", "words"),
    [("../outside", "several folders"), ("elsewhere/data", "several folders")],
)
def test_members_outside_of_the_one_folder(member: str, words: str, tmp_path: Path) -> None:
    content = io.BytesIO(torch_models.exported(torch_models.Dense()))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(member, b"x")
    with rejected("archive_unsafe", words):
        inspected(content.getvalue(), tmp_path)


# The step


def test_the_step_that_inspects_uploads(tmp_path: Path) -> None:
    save(torch_models.exported(torch_models.Dense()), tmp_path / "inputs" / "file")
    told, folder = asked(tmp_path, "inspect_model", {"path": "inputs/file", "file_name": "dense.pt2"})

    assert told[-1] == {"done": "inspect_model-1"}
    found = ModelInspection.model_validate_json((folder / "result.json").read_text())
    assert (found.format, found.files) == ("pt2", ("dense.pt2",))


def test_the_step_on_a_worker_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    save(torch_models.scripted(torch_models.Dense()), tmp_path / "inputs" / "file")
    for name in ("workers.formats.torch.torchscript", "workers.formats.torch.program"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    told, _ = asked(tmp_path, "inspect_model", {"path": "inputs/file", "file_name": "dense.pt"})

    assert told[-1]["code"] == "runtime_unavailable"
    assert "`train`" in told[-1]["detail"]
