"""The rows a model is run on, and what is kept of what it puts out."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.steps.conftest import vectors
from workers.runtimes.session import Port, available_threads, load
from workers.steps.feeds import free_shapes
from workers.steps.inputs import DatasetFile, RowSource
from workers.steps.outputs import Kept, kept_so_far, run_over, worthwhile_threads
from workers.steps.rows import DatasetRows, SyntheticRows, rows_from


class Doubling:
    """A session that puts out twice its input, in whatever shape it is told to."""

    def __init__(self, outputs: Sequence[Port], make: Any) -> None:
        self.inputs, self.outputs = (Port("x", "float32", ("n", 2)),), tuple(outputs)
        self.load_ms = 0.0
        self.conditions: dict[str, Any] = {}
        self.sizes: list[int] = []
        self._make = make

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        self.sizes.append(len(feeds["x"]))
        found = self._make(feeds["x"] * 2)
        return [found[name] for name in (wanted if wanted is not None else [port.name for port in self.outputs])]


class Numbered:
    """Rows [n, 2] that hold their own number."""

    source = "calibration"
    notes: tuple[str, ...] = ()

    def __init__(self, count: int, fixed: int | None = None) -> None:
        self.count = count
        self._fixed = fixed

    def size(self, wanted: int) -> int:
        return self._fixed or wanted

    def feeds(self, size: int = 1, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Array]]:
        for first in range(start, self.count, size):
            rows = np.repeat(np.arange(first, min(first + size, self.count), dtype=np.float32)[:, None], 2, axis=1)
            if self._fixed:
                rows = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])
            yield {"x": rows}


def kept_of(kept: Kept) -> dict[str, Array]:
    with np.load(kept.file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def silent(share: float, message: str) -> None:
    assert 0 <= share <= 1


Y = Port("y", "float32", ("n", 2))


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (8, [5])])
def test_outputs_are_kept_row_by_row(tmp_path: Path, batch: int, sizes: list[int]) -> None:
    session = Doubling([Y], lambda x: {"y": x})

    kept = run_over(session, Numbered(5), tmp_path / "o.npz", silent, batch=batch)

    np.testing.assert_array_equal(kept_of(kept)["y"][:, 0], [0, 2, 4, 6, 8])
    assert session.sizes == sizes
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]


def test_a_fixed_batch_is_filled_up_and_cut(tmp_path: Path) -> None:
    session = Doubling([Port("y", "float32", (3, 2))], lambda x: {"y": x})

    kept = run_over(session, Numbered(5, fixed=3), tmp_path / "o.npz", silent)

    assert session.sizes == [3, 3]
    np.testing.assert_array_equal(kept_of(kept)["y"][:, 0], [0, 2, 4, 6, 8])


def test_an_output_without_batch_axis_is_run_row_by_row(tmp_path: Path) -> None:
    ports = [Y, Port("total", "float32", ()), Port("flat", "float32", (2,))]
    session = Doubling(ports, lambda x: {"y": x, "total": x.sum(), "flat": x.sum(axis=0)})

    kept = run_over(session, Numbered(4), tmp_path / "o.npz", silent, batch=2)

    assert session.sizes == [1, 1, 1, 1]
    found = kept_of(kept)
    assert (found["total"].shape, found["flat"].shape) == ((4,), (4, 2))
    np.testing.assert_array_equal(found["total"], [0, 4, 8, 12])


def test_an_output_that_mixes_rows_is_refused_in_batches(tmp_path: Path) -> None:
    session = Doubling([Port("y", "float32", ("m", 2))], lambda x: {"y": x[:1]})

    with pytest.raises(StepError) as raised:
        run_over(session, Numbered(6), tmp_path / "o.npz", silent, batch=3)

    assert raised.value.code == "output_mixes_rows"


def test_large_outputs_keep_their_first_rows(tmp_path: Path) -> None:
    session = Doubling([Y], lambda x: {"y": x})

    kept = run_over(session, Numbered(100), tmp_path / "o.npz", silent, batch=4, most_bytes=10 * 8)

    assert kept.rows == 10
    assert kept_of(kept)["y"].shape == (10, 2)
    assert len(session.sizes) == 3
    assert "first 10 of 100 rows" in kept.notes[0]


def test_large_outputs_that_nobody_needs_are_not_kept(tmp_path: Path) -> None:
    session = Doubling([Y, Port("cache", "float32", ("n", 6))], lambda x: {"y": x, "cache": np.tile(x, 3)})
    size = {"batch": 4, "most_bytes": 100 * 8}

    kept = run_over(session, Numbered(100), tmp_path / "o.npz", silent, needed={"y"}, **size)

    assert (kept.rows, kept.names) == (100, ("y",))
    assert "1 that no metric looks at" in kept.notes[0]
    small = run_over(session, Numbered(20), tmp_path / "p.npz", silent, needed={"y"}, **size)
    assert (small.names, small.notes) == (("y", "cache"), ())
    needless = run_over(session, Numbered(100), tmp_path / "q.npz", silent, **size)
    assert (needless.rows, needless.names) == (25, ("y", "cache"))


def test_no_more_rows_are_run_than_the_original_kept(tmp_path: Path) -> None:
    session = Doubling([Y], lambda x: {"y": x})

    kept = run_over(session, Numbered(100), tmp_path / "o.npz", silent, most_rows=7)

    assert (kept.rows, len(session.sizes), kept.notes) == (7, 7, ())


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_whoever_looks_at_each_row_sees_those_that_are_not_kept(tmp_path: Path, batch: int) -> None:
    session, seen = Doubling([Y], lambda x: {"y": x}), []

    def every(outputs: Mapping[str, Array]) -> bool:
        seen.append(outputs["y"][:, 0])
        return True

    kept = run_over(session, Numbered(50), tmp_path / "o.npz", silent, batch=batch, most_bytes=10 * 8, every=every)

    assert (kept.rows, kept_of(kept)["y"].shape) == (10, (10, 2))
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(50) * 2)
    assert "first 10 of 50 rows were kept" in kept.notes[0]
    assert "all 50" in kept.notes[0]


def test_an_artifact_shows_each_row_too_where_the_original_kept_some(tmp_path: Path) -> None:
    session, seen = Doubling([Y], lambda x: {"y": x}), []

    def every(outputs: Mapping[str, Array]) -> bool:
        seen.append(len(outputs["y"]))
        return True

    kept = run_over(session, Numbered(100), tmp_path / "o.npz", silent, batch=8, most_rows=7, every=every)

    assert (kept.rows, sum(seen), kept.notes) == (7, 100, ())


def test_who_keeps_every_row_shows_none(tmp_path: Path) -> None:
    def every(outputs: Mapping[str, Array]) -> bool:
        raise AssertionError("all rows are kept")

    session = Doubling([Y], lambda x: {"y": x})

    assert run_over(session, Numbered(9), tmp_path / "o.npz", silent, batch=4, every=every).rows == 9


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_no_more_rows_are_run_than_somebody_wants(tmp_path: Path, wanted: int) -> None:
    session, seen = Doubling([Y], lambda x: {"y": x}), []

    def every(outputs: Mapping[str, Array]) -> bool:
        seen.append(outputs)
        return len(seen) < wanted

    kept = run_over(session, Numbered(100), tmp_path / "o.npz", silent, batch=5, most_bytes=10 * 8, every=every)

    assert kept.rows == 10
    assert len(session.sizes) == max(wanted, 2)
    assert len(seen) == wanted
    np.testing.assert_array_equal(kept_of(kept)["y"][:, 0], np.arange(10) * 2)
    assert "were run and compared" in kept.notes[0]


def test_an_output_whose_shape_changes_is_left_out(tmp_path: Path) -> None:
    ports = [Y, Port("found", "float32", ("k", 4))]
    session = Doubling(ports, lambda x: {"y": x, "found": np.zeros((int(x[0, 0]) + 2, 4), np.float32)})

    kept = run_over(session, Numbered(3), tmp_path / "o.npz", silent)

    assert kept.names == ("y",)
    assert list(kept_of(kept)) == ["y"]
    assert "found changes from row to row" in kept.notes[0]
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]


def test_outputs_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    ports = [Port("text", "string", ("n",)), Port("map", "", ()), Y]
    session = Doubling(ports, lambda x: {"y": x})

    kept = run_over(session, Numbered(2), tmp_path / "o.npz", silent)

    assert kept.names == ("y",)
    assert "text, map" in kept.notes[0]


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        run_over(Doubling([Port("text", "string", ("n",))], None), Numbered(2), tmp_path / "o.npz", silent)

    assert raised.value.code == "no_usable_output"


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        run_over(Doubling([Y], None), Numbered(0), tmp_path / "o.npz", silent)

    assert raised.value.code == "dataset_empty"


def test_integers_and_truth_become_floats(tmp_path: Path) -> None:
    ports = [Port("i", "int64", ("n", 2)), Port("b", "bool", ("n", 2))]
    session = Doubling(ports, lambda x: {"i": x.astype(np.int64), "b": x > 2})

    kept = kept_of(run_over(session, Numbered(3), tmp_path / "o.npz", silent))

    assert {values.dtype for values in kept.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(kept["b"][:, 0], [0, 0, 1])


def test_rows_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    session = Doubling([Y], lambda x: {"y": np.where(x == 4, np.nan, x)})

    kept = run_over(session, Numbered(4), tmp_path / "o.npz", silent)

    assert kept.unusual == {"y": 1}


def test_rows_that_are_no_numbers_are_counted_apart(tmp_path: Path) -> None:
    values = {0: np.nan, 2: np.inf, 4: -np.inf}
    session = Doubling([Y], lambda x: {"y": np.where(x == 6, 1.0, np.full_like(x, values.get(int(x[0, 0]), 1.0)))})

    kept = run_over(session, Numbered(5), tmp_path / "o.npz", silent)

    assert (kept.unusual, kept.undefined) == ({"y": 3}, {"y": 1})


def fails_at(number: int) -> Any:
    def make(x: Array) -> dict[str, Array]:
        if (x == 2 * number).any():
            raise StepError("onnxruntime cannot run the model: no.", code="model_does_not_run")
        return {"y": x, "other": x[:, :1]}

    return make


@pytest.mark.parametrize(
    ("batch", "fixed", "at", "done", "said"),
    [
        (1, None, 3, 3, "With row 3 of the calibration dataset"),
        (4, None, 6, 4, "With rows 4 to 7 of the calibration dataset"),
        (4, None, 9, 8, "With rows 8 to 9 of the calibration dataset"),
        (1, 4, 9, 8, "With rows 8 to 9 of"),
        (1, None, 0, None, "With row 0 of"),
    ],
)
def test_what_came_before_a_row_that_fails_is_left(
    tmp_path: Path, batch: int, fixed: int | None, at: int, done: int | None, said: str
) -> None:
    session = Doubling([Y, Port("other", "float32", ("n", 1))], fails_at(at))

    with pytest.raises(StepError) as raised:
        run_over(session, Numbered(10, fixed), tmp_path / "o.npz", silent, batch=batch)

    assert raised.value.code == "model_does_not_run"
    assert said in raised.value.detail
    assert "onnxruntime cannot run the model: no. Mend the model, or the rows." in raised.value.detail
    found = kept_so_far(tmp_path / "o.npz")
    if done is None:
        assert found is None
        return
    assert found is not None
    assert (found.done, found.rows, found.size) == (done, 10, fixed or batch)
    np.testing.assert_array_equal(found.outputs["y"][:, 0], 2 * np.arange(done))
    np.testing.assert_array_equal(found.outputs["other"][:, 0], 2 * np.arange(done))


def test_a_failure_on_random_rows_says_that_they_are(tmp_path: Path) -> None:
    rows = Numbered(3)
    rows.source = "synthetic"  # type: ignore[misc]

    with pytest.raises(StepError, match=r"With random row 1: .* no\. Bring data"):
        run_over(Doubling([Y], fails_at(1)), rows, tmp_path / "o.npz", silent)


def test_a_run_that_ends_leaves_nothing_but_its_outputs(tmp_path: Path) -> None:
    run_over(Doubling([Y], lambda x: {"y": x}), Numbered(3), tmp_path / "o.npz", silent)

    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]
    assert kept_so_far(tmp_path / "o.npz") is None


def test_names_may_be_paths(tmp_path: Path) -> None:
    session = Doubling([Port("/head/file", "float32", ("n", 2))], lambda x: {"/head/file": x})

    kept = run_over(session, Numbered(2), tmp_path / "o.npz", silent)

    assert kept_of(kept)["/head/file"].shape == (2, 2)


def test_the_same_outputs_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a.npz", "b.npz"):
        session = Doubling([Y], lambda x: {"y": x})
        files.append(run_over(session, Numbered(3), tmp_path / name, silent).file.read_bytes())

    assert files[0] == files[1]


@pytest.mark.parametrize(("seconds", "threads"), [(0.0, 1), (0.02, available_threads())])
def test_slow_models_alone_get_all_threads(seconds: float, threads: int) -> None:
    def slow(x: Array) -> dict[str, Array]:
        time.sleep(seconds)
        return {"y": x}

    assert worthwhile_threads(Doubling([Y], slow), Numbered(3)) == threads


def test_a_model_that_fails_at_once_names_its_first_rows() -> None:
    with pytest.raises(StepError, match="With rows 0 to 2 of the calibration dataset"):
        worthwhile_threads(Doubling([Y], fails_at(1)), Numbered(3), batch=4)


def test_one_interrupted_call_does_not_make_a_model_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a clock says before and after each call: that of this machine may be interrupted at any time.
    told = iter([0.0, 0.05, 1.0, 1.001])
    monkeypatch.setattr("workers.steps.outputs.time.perf_counter", lambda: next(told))

    def interrupted(x: Array) -> dict[str, Array]:
        return {"y": x}

    assert worthwhile_threads(Doubling([Y], interrupted), Numbered(3)) == 1


def dataset(tmp_path: Path, **arrays: Array) -> DatasetFile:
    np.savez(tmp_path / "data.npz", **arrays)
    return DatasetFile(path="data.npz", file_name="data.npz")


def test_dataset_rows_come_in_order_and_size(tmp_path: Path) -> None:
    rows = DatasetRows([Port("x", "float32", ("n", 32))], dataset(tmp_path, x=vectors(600)), tmp_path, "evaluation")

    feeds = list(rows.feeds(7, 3, 500))

    assert [len(feed["x"]) for feed in feeds] == [7] * 71
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), vectors(600)[3:500])


def test_dataset_rows_take_the_types_that_the_artifact_wants(tmp_path: Path) -> None:
    rows = DatasetRows([Port("x", "float16", ("n", 32))], dataset(tmp_path, x=vectors(3)), tmp_path, "evaluation")

    assert next(rows.feeds())["x"].dtype == np.float16


def test_labels_are_cut_to_the_rows_that_were_kept(tmp_path: Path) -> None:
    file = dataset(tmp_path, x=vectors(9), labels=np.arange(9))
    rows = DatasetRows([Port("x", "float32", ("n", 32))], file, tmp_path, "evaluation")

    assert rows.has_labels
    np.testing.assert_array_equal(rows.labels(4), [0, 1, 2, 3])


def test_a_model_without_inputs_has_rows_too(tmp_path: Path) -> None:
    rows = DatasetRows([], dataset(tmp_path, labels=np.arange(3)), tmp_path, "evaluation")

    assert list(rows.feeds()) == [{}, {}, {}]


@pytest.mark.parametrize("name", ["conv", "conv1", "mlp", "transformer", "branches", "loop"])
def test_random_rows_run_on_any_model(tmp_path: Path, name: str) -> None:
    made = {
        "conv": models.conv_net(),
        "conv1": models.conv_net(batch=1),
        "mlp": models.mlp(),
        "transformer": models.transformer(words=13),
        "branches": models.branches(),
        "loop": models.loop(),
    }[name]
    session = load(models.save(made, tmp_path / "model.onnx"))

    rows = SyntheticRows(session)
    kept = run_over(session, rows, tmp_path / "o.npz", silent)

    assert (rows.count, kept.rows) == (32, 32)
    again = SyntheticRows(session)
    for first, second in zip(rows.feeds(), again.feeds(), strict=True):
        for port in session.inputs:
            np.testing.assert_array_equal(first[port.name], second[port.name])


def test_random_ids_stay_below_the_table_and_masks_are_ones(tmp_path: Path) -> None:
    session = load(models.save(models.transformer(words=13), tmp_path / "model.onnx"))

    rows = SyntheticRows(session)
    feeds = list(rows.feeds())

    assert max(feed["input_ids"].max() for feed in feeds) == 9
    assert all((feed["attention_mask"] == 1).all() for feed in feeds)
    assert feeds[0]["input_ids"].shape == (1, 16)
    assert any("[1, 16]" in note for note in rows.notes)


def test_random_rows_take_the_shapes_that_are_named(tmp_path: Path) -> None:
    session = load(models.save(models.transformer(), tmp_path / "model.onnx"))

    rows = SyntheticRows(session, shapes={"input_ids": (1, 7)})

    # The mask shares the symbol of its axis.
    assert next(rows.feeds(2))["attention_mask"].shape == (2, 7)


@pytest.mark.parametrize("shapes", [{"image": (1, 3, 12)}, {"image": (1, 4, 12, 12)}, {"picture": (1, 3, 12, 12)}])
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    session = load(models.save(models.conv_net(), tmp_path / "model.onnx"))

    with pytest.raises(StepError) as raised:
        SyntheticRows(session, shapes=shapes)

    assert raised.value.code == "shapes_do_not_fit"


def test_seeds_make_other_rows(tmp_path: Path) -> None:
    session = load(models.save(models.mlp(), tmp_path / "model.onnx"))
    first, second = (next(rows_from(RowSource(seed=seed), tmp_path, session).feeds())["x"] for seed in (1, 2))

    assert not np.array_equal(first, second)


def shaped(*inputs: tuple[str, tuple[int | str | None, ...], tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """`free_shapes` of inputs with a declared and a fed shape each."""
    ports = [Port(name, "float32", declared) for name, declared, _ in inputs]
    return free_shapes(ports, {name: np.zeros(fed, np.float32) for name, _, fed in inputs})


def test_shapes_are_told_where_the_model_leaves_them_open() -> None:
    assert shaped(
        ("x", ("n", "length", 8), (2, 5, 8)),
        ("y", ("n", None), (2, 3)),
        ("fixed", ("n", 3, 4), (2, 3, 4)),
        ("scalar", (), ()),
    ) == {"x": (2, 5, 8), "y": (2, 3)}


def test_caches_that_are_alike_are_told_once() -> None:
    past = [(f"past.{layer}.{part}", ("n", 4, "past", 8), (1, 4, 7, 8)) for layer in range(12) for part in ("k", "v")]
    assert shaped(*past) == {"past.*.k": (1, 4, 7, 8), "past.*.v": (1, 4, 7, 8)}
    # One that differs is not hidden, and a single one keeps its name.
    odd = [("x1", ("n", "a"), (1, 2)), ("x2", ("n", "a"), (1, 3)), ("z3", ("n", "b"), (1, 2))]
    assert shaped(*odd) == {"x1": (1, 2), "x2": (1, 3), "z3": (1, 2)}
