"""Files of torch on torch: the same interface, the same numbers as the module that the file was made from."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import BitpressError, StepError
from tests.parts import models
from workers.formats.torch.trust import VARIABLE
from workers.runtimes.session import Array, Port, Session, load, usual_runtime

pytest.importorskip("torch", reason="torch is not installed (extra `train`)")

import torch

from tests.parts import torch_models
from tests.parts.torch_models import save


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")


def opened(content: bytes, folder: Path, **options: Any) -> Session:
    return load(save(content, folder / "model.bin"), runtime="torch", **options)


def by_torch(module: Any, *inputs: Array) -> Any:
    """The module itself, in this process."""
    with torch.no_grad():
        return module.eval()(*(torch.from_numpy(each) for each in inputs))


FORMS = {
    "pt2": torch_models.exported,
    "scripted": torch_models.scripted,
    "traced": torch_models.traced,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("module", [torch_models.Dense, torch_models.Picture])
def test_it_computes_what_the_module_does_at_any_batch(form: str, module: Any, tmp_path: Path) -> None:
    made = module()
    session = opened(FORMS[form](made), tmp_path)
    name = session.inputs[0].name

    for rows in (1, 5, 2):
        [values] = [each.numpy() for each in torch_models.example(made, rows)]
        [found] = session.run({name: values})
        np.testing.assert_allclose(found, by_torch(made, values).numpy(), rtol=1e-5, atol=1e-6)
        assert found.dtype == np.float32


def test_an_exported_program_says_what_goes_in_and_out(tmp_path: Path) -> None:
    session = opened(torch_models.exported(torch_models.Words()), tmp_path)

    ids, weights = session.inputs
    assert (ids.name, ids.dtype, ids.shape[1]) == ("ids", "int64", 5)
    assert (weights.name, weights.dtype) == ("weights", "float32")
    assert isinstance(ids.shape[0], str)
    assert ids.shape[0] == weights.shape[0], "one symbol"
    assert [(port.name, port.dtype, port.shape[1:]) for port in session.outputs] == [
        ("mean", "float32", (4,)),
        ("logits", "float32", (3,)),
    ]
    assert session.load_ms > 0


def test_outputs_of_a_dictionary_go_by_their_keys(tmp_path: Path) -> None:
    made = torch_models.Words()
    session = opened(torch_models.exported(made), tmp_path)
    ids, weights = (each.numpy() for each in torch_models.example(made, 3))

    logits, mean = session.run({"ids": ids, "weights": weights}, ["logits", "mean"])

    expected = by_torch(made, ids, weights)
    np.testing.assert_allclose(logits, expected["logits"].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, expected["mean"].numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_nested_is_fed_and_had_flat(tmp_path: Path) -> None:
    a, b, shift = torch.tensor([[1.0]]), torch.tensor([[20.0]]), torch.tensor([[300.0]])
    program = torch.export.export(torch_models.Nested(), ({"b": b, "a": a}, 3), {"shift": shift})
    torch.export.save(program, tmp_path / "made.pt2")
    session = opened((tmp_path / "made.pt2").read_bytes(), tmp_path)

    names = [port.name for port in session.inputs]
    assert sorted(names) == ["pair_a", "pair_b", "shift"]
    fed = {"pair_a": 2.0, "pair_b": 30.0, "shift": 400.0}
    found = session.run({name: np.full((1, 1), value, np.float32) for name, value in fed.items()})
    assert [each.item() for each in found] == [2 * 3 + 30 + 400, 3, 30 - 400]
    assert len(session.outputs) == 3
    feed = {name: np.full((1, 1), value, np.float32) for name, value in fed.items()}
    assert "aten::mul" in {kernel.op_type for kernel in session.profile([feed], 2, tmp_path).kernels}


@pytest.mark.parametrize("form", FORMS)
def test_several_outputs_keep_their_order(form: str, tmp_path: Path) -> None:
    session = opened(FORMS[form](torch_models.TwoOutputs()), tmp_path)
    names = [port.name for port in session.outputs]

    twice, thrice = session.run({"x": np.ones((2, 4), np.float32)})
    assert (twice.max(), thrice.max()) == (2, 3)
    [thrice] = session.run({"x": np.ones((2, 4), np.float32)}, names[1:])
    assert thrice.max() == 3
    if form != "pt2":
        assert names == ["output_0", "output_1"]


def test_torchscript_says_the_names_of_its_arguments_and_no_more(tmp_path: Path) -> None:
    session = opened(torch_models.scripted(torch_models.Dense()), tmp_path)

    assert session.inputs == (Port("x", "unknown", ()),)
    assert session.outputs == (Port("output", "unknown", ()),)
    session.run({"x": np.zeros((1, 4), np.float32)})
    assert session.outputs == (Port("output", "float32", ()),), "now it was seen"


def test_arguments_with_a_default_are_not_fed(tmp_path: Path) -> None:
    session = opened(torch_models.scripted(torch_models.Scaled()), tmp_path)

    assert [port.name for port in session.inputs] == ["x"]
    assert session.run({"x": np.ones((1, 4), np.float32)})[0].tolist() == [[2] * 4]


@pytest.mark.parametrize("form", FORMS)
def test_what_writes_to_its_inputs_is_given_copies(form: str, tmp_path: Path) -> None:
    session = opened(FORMS[form](torch_models.Writer()), tmp_path)
    fed = np.zeros((2, 4), np.float32)

    found = [session.run({"x": fed})[0] for _ in range(3)]

    assert fed.max() == 0
    assert [float(each.max()) for each in found] == [1, 1, 1]
    assert session.conditions["copies_inputs"]


@pytest.mark.parametrize("form", ["pt2", "scripted"])
def test_outputs_are_the_caller_s_own(form: str, tmp_path: Path) -> None:
    """Also where they are what the model keeps and changes with each call."""
    session = opened(FORMS[form](torch_models.Counter()), tmp_path)
    fed = {"x": np.zeros((1, 4), np.float32)}

    before = float(session.run(fed)[1].item())
    first, second = session.run(fed)[1], session.run(fed)[1]

    assert (first.item() - before, second.item() - before) == (1, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_conditions_say_who_computes(threads: int, tmp_path: Path) -> None:
    session = opened(torch_models.exported(torch_models.Dense()), tmp_path, threads=threads)

    session.run({"x": np.zeros((1, 4), np.float32)})
    assert torch.get_num_threads() == threads
    assert session.conditions["runtime"] == "torch"
    assert session.conditions["version"] == torch.__version__
    assert session.conditions["threads"] == threads
    assert session.conditions["interop_threads"] == 1
    assert session.conditions["program"] == "pt2"


def test_each_session_has_its_threads(tmp_path: Path) -> None:
    content = torch_models.exported(torch_models.Dense())
    one, two = opened(content, tmp_path, threads=1), opened(content, tmp_path, threads=2)

    for session, threads in ((one, 1), (two, 2), (one, 1)):
        session.run({"x": np.zeros((1, 4), np.float32)})
        assert torch.get_num_threads() == threads


def test_callers_side_by_side_have_them_too(tmp_path: Path) -> None:
    module = torch_models.Dense()
    session = opened(torch_models.exported(module), tmp_path, threads=1)
    fed = [np.full((2, 4), place, np.float32) for place in range(20)]

    def call(values: Array) -> tuple[Array, int]:
        return session.run({"x": values})[0], torch.get_num_threads()

    with ThreadPoolExecutor(4) as callers:
        for values, (found, threads) in zip(fed, callers.map(call, fed), strict=True):
            np.testing.assert_allclose(found, by_torch(module, values).numpy(), rtol=1e-5, atol=1e-6)
            assert threads == 1


def test_options_of_another_runtime_are_named_and_not_used(tmp_path: Path) -> None:
    session = opened(
        torch_models.exported(torch_models.Dense()), tmp_path, session_options={"session.x64quantprecision": "1"}
    )

    assert session.conditions["not_applicable"] == {"session.x64quantprecision": "1"}
    assert session.conditions["session_options"] == {}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"session_options": {"NUM_STREAMS": "2"}}, "session_option_unknown"),
        ({"optimization": "none"}, "session_option_unknown"),
        ({"providers": ("CUDAExecutionProvider",)}, "provider_unavailable"),
    ],
)
def test_options_that_it_does_not_have(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        opened(torch_models.exported(torch_models.Dense()), tmp_path, **options)

    assert raised.value.code == code


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"y": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 7), np.float32)},
        {"x": np.zeros((1, 4), np.int64)},
        {"x": np.zeros((1, 4), np.float64)},
        {"x": np.array([["a"] * 4], object)},
    ],
)
def test_wrong_feeds_are_refused(form: str, feeds: dict[str, Array], tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        opened(FORMS[form](torch_models.Dense()), tmp_path).run(feeds)

    assert raised.value.code == "model_does_not_run"
    assert len(raised.value.detail) < 1000


def test_more_rows_than_the_program_allows(tmp_path: Path) -> None:
    session = opened(torch_models.exported(torch_models.Dense(), most=8), tmp_path)

    assert session.run({"x": np.zeros((8, 4), np.float32)})[0].shape == (8, 3)
    with pytest.raises(StepError) as raised:
        session.run({"x": np.zeros((9, 4), np.float32)})
    assert raised.value.code == "model_does_not_run"


def test_memory_that_is_not_there_is_what_it_is_called(tmp_path: Path) -> None:
    session = opened(torch_models.scripted(torch_models.Huge()), tmp_path)

    with pytest.raises(MemoryError):
        session.run({"x": np.zeros((1, 4), np.float32)})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", ["cut", "without weights"])
def test_a_damaged_file_does_not_load(form: str, change: str, tmp_path: Path) -> None:
    content = FORMS[form](torch_models.Dense())
    if change == "cut":
        content = content[: len(content) // 2]
    else:
        content = torch_models.rewritten(
            content, lambda name, data: None if name in ("data/weights/weight_0", "data/0") else data
        )

    with pytest.raises(BitpressError) as raised:
        opened(content, tmp_path)
    assert raised.value.code in ("model_does_not_load", "runtime_not_for_format")
    assert str(tmp_path) not in raised.value.detail


def test_each_format_has_its_runtime(tmp_path: Path) -> None:
    program = save(torch_models.exported(torch_models.Dense()), tmp_path / "dense.onnx")  # the name is only a claim
    script = save(torch_models.scripted(torch_models.Dense()), tmp_path / "dense.tflite")
    onnx = models.save(models.mlp(), tmp_path / "mlp.pt2")

    assert [usual_runtime(path) for path in (program, script, onnx)] == ["torch", "torch", "onnxruntime"]
    for path, runtime in ((program, "onnxruntime"), (script, "openvino"), (script, "litert"), (onnx, "torch")):
        with pytest.raises(StepError) as raised:
            load(path, runtime=runtime)
        assert raised.value.code == "runtime_not_for_format"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [None, "0", ""])
def test_nothing_is_loaded_untrusted(
    form: str, value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(BitpressError) as raised:
        opened(FORMS[form](torch_models.Dense()), tmp_path)

    assert raised.value.code == "torch_files_not_trusted"
    assert VARIABLE in raised.value.detail
    assert "torch.onnx.export" in raised.value.detail


def test_branches_are_taken_as_the_values_say(tmp_path: Path) -> None:
    session = opened(torch_models.exported(torch_models.Branches()), tmp_path)

    for fed, expected in ((1.0, 2.0), (-1.0, -3.0)):
        [found] = session.run({"x": np.full((2, 4), fed, np.float32)})
        assert (found.min(), found.max()) == (expected, expected)
    kernels = session.profile([{"x": np.ones((2, 4), np.float32)}], 3, tmp_path).kernels
    assert all(kernel.nodes == () for kernel in kernels), "no order of nodes tells which they are"
    assert sum(kernel.op_type == "aten::mul" for kernel in kernels) == 2


# By operator


def nodes_of(session: Session, feeds: list[dict[str, Array]], folder: Path, runs: int = 6) -> dict[str, Any]:
    return {kernel.name: kernel for kernel in session.profile(feeds, runs, folder).kernels}


def test_times_by_operator_of_an_exported_program(tmp_path: Path) -> None:
    """Each node once, in its order, under the name that it has in the file."""
    made = torch_models.Picture()
    session = opened(torch_models.exported(made), tmp_path)
    program = torch.export.load(tmp_path / "model.bin")
    expected = [(node.name, node.target._schema.name) for node in program.graph.nodes if node.op == "call_function"]

    profile = session.profile([{"image": torch_models.example(made, 2)[0].numpy()}], 6, tmp_path)

    named = profile.kernels
    assert [(kernel.name, kernel.op_type) for kernel in named] == expected
    assert [kernel.nodes for kernel in named] == [(name,) for name, _ in expected]
    assert len(profile.run_ms) == 6
    for kernel in profile.kernels:
        assert len(kernel.ms) == 6
        assert kernel.calls == 1
        assert all(each > 0 for each in kernel.ms)
    for runs in zip(profile.run_ms, *(kernel.ms for kernel in profile.kernels), strict=True):
        assert sum(runs[1:]) <= runs[0], "no time is counted twice"
    [convolution] = [kernel for kernel in named if kernel.op_type == "aten::conv2d"]
    assert convolution.output_bytes == 2 * 8 * 8 * 8 * 4
    assert convolution.kernel.endswith("(float32, float32)")
    assert not convolution.kernel.startswith("aten::conv2d"), "what ran is further in"


def test_nodes_of_one_kind_are_told_apart(tmp_path: Path) -> None:
    session = opened(torch_models.exported(torch_models.Layers()), tmp_path)

    kernels = nodes_of(session, [{"x": np.ones((2, 4), np.float32)}], tmp_path)

    assert {name: kernel.output_bytes for name, kernel in kernels.items()} == {
        "linear": 2 * 8 * 4,
        "relu": 2 * 8 * 4,
        "linear_1": 2 * 3 * 4,
    }


@pytest.mark.parametrize("form", ["scripted", "traced"])
def test_times_by_operator_of_torchscript(form: str, tmp_path: Path) -> None:
    made = torch_models.Picture()
    session = opened(FORMS[form](made), tmp_path)

    kernels = nodes_of(session, [{"image": torch_models.example(made, 2)[0].numpy()}], tmp_path)

    types = [kernel.op_type for kernel in kernels.values()]
    for operator in (
        "aten::conv2d" if form == "scripted" else "aten::_convolution",
        "aten::batch_norm",
        "aten::linear",
    ):
        assert operator in types
    assert all(kernel.output_bytes is None and kernel.nodes == () for kernel in kernels.values())


def test_a_profile_cycles_through_the_feeds_and_changes_none(tmp_path: Path) -> None:
    session = opened(torch_models.exported(torch_models.Writer()), tmp_path)
    feeds = [{"x": np.full((2, 4), place, np.float32)} for place in range(3)]

    session.profile(feeds, 5, tmp_path)

    assert [float(feed["x"].max()) for feed in feeds] == [0, 1, 2]


# What a first model costs besides itself


@pytest.mark.parametrize("form", FORMS)
def test_after_waking_a_model_imports_nothing(form: str, tmp_path: Path) -> None:
    """What it would import, would count as its time to load and as its memory."""
    save(FORMS[form](torch_models.Picture()), tmp_path / "model.pt")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from workers.runtimes.session import load, wake\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "wake(folder / 'model.pt', threads=1, runtime='torch', scratch=folder)\n"
        "before = set(sys.modules)\n"
        "session = load(folder / 'model.pt', runtime='torch')\n"
        "session.run({'image': np.zeros((1, 3, 8, 8), np.float32)})\n"
        "print(sorted(set(sys.modules) - before))\n"
        "print([path.name for path in folder.iterdir()])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "['model.pt']"]


# What is there and what is not


def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    path = save(torch_models.exported(torch_models.Dense()), tmp_path / "model.pt2")
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from app.errors import BitpressError\n"
        "from workers.runtimes.session import available_runtimes, load\n"
        "assert 'torch' not in available_runtimes(['torch'])\n"
        "try:\n"
        f"    load(Path({str(path)!r}), runtime='torch')\n"
        "except BitpressError as error:\n"
        "    print(error.code, error.detail)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.startswith("runtime_unavailable ")
    assert "`train`" in done.stdout


def test_torch_is_imported_by_nobody_who_does_not_need_it(tmp_path: Path) -> None:
    """Telling a file's format, checking its archive and refusing it are done without torch."""
    path = save(torch_models.exported(torch_models.Dense()), tmp_path / "model.pt2")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import workers.steps.inspect_model, workers.steps.inspect, workers.steps.profile, workers.steps.baseline\n"
        "from app.errors import BitpressError\n"
        "from workers.formats.model_files import open_model\n"
        "from workers.formats.signatures import model_format\n"
        f"path = Path({str(path)!r})\n"
        "assert model_format(path) == 'pt2'\n"
        "try:\n"
        "    open_model(path, path.with_name('unpacked'))\n"
        "except BitpressError as error:\n"
        "    assert error.code == 'torch_files_not_trusted', error.code\n"
        "print('torch' in sys.modules)\n"
    )
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, env=environment)
    assert done.stdout.strip() == "False"
