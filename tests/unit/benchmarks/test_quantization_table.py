"""The table of quantizers: its intervals, what it keeps of each maker, and what it says of those that fail."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.stats import bootstrap

from benchmarks.models.workload import Feed, Part, Run, Scores, Workload
from benchmarks.quantization import __main__ as command
from benchmarks.quantization import judging, peers
from benchmarks.quantization.judging import Figure, Judged
from benchmarks.quantization.peers import Made
from benchmarks.quantization.tasks import Row, Task

Floats = NDArray[np.float64]


# --- intervals


def interval_by_loop(items: Floats, clusters: NDArray[np.int64], resamples: int = 4000) -> tuple[float, float]:
    """Draw clusters with replacement and average every item that they hold, one resample after another."""
    rng, names, means = np.random.default_rng(7), np.unique(clusters), []
    for _ in range(resamples):
        held = [items[clusters == name] for name in rng.choice(names, len(names))]
        means.append(np.concatenate(held).mean())
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


@pytest.mark.parametrize("sizes", [[4] * 25, [1, 2, 30, 4, 5, 9, 11, 3, 3, 8]])
def test_an_interval_is_that_of_a_plain_loop_over_clusters(sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    clusters = rng.permutation(np.repeat(np.arange(len(sizes)) * 17 - 40, sizes))
    items = rng.standard_normal(len(clusters)) + np.sin(clusters)
    found = judging.interval(items, clusters)
    assert found.value == pytest.approx(items.mean())
    low, high = interval_by_loop(items, clusters)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))


def test_an_interval_of_single_items_is_scipys_percentile_bootstrap() -> None:
    items = np.random.default_rng(2).exponential(size=150)
    found = judging.interval(items, np.arange(150))
    expected = bootstrap((items,), np.mean, method="percentile", n_resamples=9999, random_state=3).confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.08 * width)


@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=20), repeats=st.integers(2, 5))
def test_items_that_repeat_within_a_cluster_make_no_interval_narrower(values: list[float], repeats: int) -> None:
    items, clusters = np.array(values), np.arange(len(values))
    once = judging.interval(items, clusters)
    often = judging.interval(np.repeat(items, repeats), np.repeat(clusters, repeats))
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_an_interval_of_equal_items_is_a_point() -> None:
    assert judging.interval(np.full(9, 0.25), np.repeat(np.arange(3), 3)) == Figure(0.25, 0.25, 0.25)


def test_perplexity_is_the_exponential_of_a_mean_and_a_correlation_has_no_interval() -> None:
    nll, clusters = np.random.default_rng(4).uniform(2, 4, size=60), np.repeat(np.arange(6), 10)
    judged = Judged(np.empty(0), {"perplexity": float(np.exp(nll.mean())), "spearman": 0.5}, {"nll": nll}, clusters)
    found, plain = judging.scores(judged), judging.interval(nll, clusters)
    assert found["perplexity"].value == pytest.approx(np.exp(plain.value))
    assert (found["perplexity"].low, found["perplexity"].high) == pytest.approx(
        (np.exp(plain.low), np.exp(plain.high)), rel=1e-3
    )
    assert found["spearman"].value == 0.5
    assert np.isnan([found["spearman"].low, found["spearman"].high]).all()


# --- a task of its own: a product of [1, 4] with [4, 3], judged by its first class


def write_model(path: Path, weights: NDArray[np.float32]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weights"], ["logits"])],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def rows_of(seed: int, count: int) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [{"rows": rng.standard_normal((1, 4), dtype=np.float32)} for _ in range(count)]


WEIGHTS = np.random.default_rng(0).standard_normal((4, 3), dtype=np.float32)
OTHER_WEIGHTS = WEIGHTS[:, [1, 2, 0]]
"""Whose first class is never that of `WEIGHTS`."""


def product_task(folder: Path, rows: Sequence[Row] = ()) -> Task:
    feeds = rows_of(1, 12)

    def judge(run: Run) -> Scores:
        hits = np.array([float(run(feed)["logits"].argmax() == 0) for feed in feeds])
        return Scores(values={"top1": float(hits.mean())}, items={"top1": hits}, clusters=np.arange(12))

    folder.mkdir(exist_ok=True)
    return Task(
        workload=Workload(
            name="product",
            model=write_model(folder / "product.onnx", WEIGHTS),
            calibration=rows_of(2, 3),
            tuning=Part(feeds=[], judge=judge),
            evaluation=Part(feeds=feeds, judge=judge),
        ),
        about="A product",
        step=lambda run: feeds[0],
        pick=lambda outputs: outputs["logits"].argmax(axis=-1),
        agreement=lambda one, other: np.asarray(one == other, dtype=np.float64),
        clusters=np.arange(12),
        rows=rows,
    )


def test_agreement_is_the_share_of_answers_that_are_the_originals(tmp_path: Path) -> None:
    task = product_task(tmp_path)
    original = judging.judge(task, task.workload.model, {})
    half = WEIGHTS.copy()
    half[0] += np.float32(2.0) * (WEIGHTS[0, [1, 2, 0]] - WEIGHTS[0])
    changed = judging.judge(task, write_model(tmp_path / "changed.onnx", half), {})
    expected = [
        float((feed["rows"] @ half).argmax() == (feed["rows"] @ WEIGHTS).argmax())
        for feed in task.workload.evaluation.feeds
    ]
    assert 0 < np.mean(expected) < 1
    assert judging.agreement(task, original, original) == Figure(1.0, 1.0, 1.0)
    assert judging.agreement(task, changed, original).value == pytest.approx(np.mean(expected))
    other = judging.judge(task, write_model(tmp_path / "other.onnx", OTHER_WEIGHTS), {})
    assert judging.agreement(task, other, original) == Figure(0.0, 0.0, 0.0)


def test_answers_are_kept_beside_the_model_and_by_session_options(tmp_path: Path) -> None:
    task = product_task(tmp_path)
    first = judging.judge(task, task.workload.model, {})
    again = judging.judge(task, task.workload.model, {})
    assert again.scores == first.scores
    np.testing.assert_array_equal(again.picks, first.picks)
    assert len(list(tmp_path.glob("product-judged-*.npz"))) == 1
    judging.judge(task, task.workload.model, {"session.x64quantprecision": "1"})
    assert len(list(tmp_path.glob("product-judged-*.npz"))) == 2


# --- makers

MAKER = '''
"""A maker that copies the model, and says in a file of its own that it ran."""

import shutil
from pathlib import Path

from making import main


def copy(model, feeds, out, text=""):
    with Path(__file__).with_name("ran.txt").open("a") as ran:
        ran.write(f"{len(feeds)}\\n")
    print(text)
    if text == "fail":
        raise ValueError("these   rows\\nare too few")
    if text == "nothing":
        return None
    if text == "wait":
        import time

        time.sleep(60)
    shutil.copy(model, out)
    return {"session.x64quantprecision": "1"}


CONFIGURATIONS = {name: (copy, {"text": name}) for name in ("copy", "fail", "nothing", "wait")}

if __name__ == "__main__":
    main(["numpy"], CONFIGURATIONS)
'''


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a peer named `fake` that is run by this interpreter; the table's folders are the test's own."""
    scripts, needed = tmp_path / "peer", tmp_path / "requirements"
    scripts.mkdir()
    needed.mkdir()
    (scripts / "making.py").write_text((peers.SCRIPTS / "making.py").read_text())
    (scripts / "by_fake.py").write_text(MAKER)
    (needed / "peer-fake.txt").write_text("numpy==2.3.0\n")
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    monkeypatch.setattr(peers, "HOME", tmp_path / "home")
    monkeypatch.setattr(peers, "SCRIPTS", scripts)
    monkeypatch.setattr(peers, "interpreter", lambda peer: Path(sys.executable))
    monkeypatch.setattr(command, "LOGS", tmp_path / "logs")
    peers._digest.cache_clear()  # it takes files for what they were when it first read them
    return scripts


def make(task: Task, configuration: str) -> Made:
    return peers.make("fake", configuration, task.workload.model, task.workload.calibration, "product")


def place(task: Task, configuration: str = "copy", feeds: Sequence[Feed] | None = None) -> Path:
    peers._digest.cache_clear()
    feeds = task.workload.calibration if feeds is None else feeds
    return peers.place("fake", configuration, task.workload.model, feeds, "product")


def test_an_artifact_is_made_once_and_its_record_says_how(maker: Path, tmp_path: Path) -> None:
    task = product_task(tmp_path / "model")
    made = make(task, "copy")
    assert made.error == ""
    assert made.model.read_bytes() == task.workload.model.read_bytes()
    assert made.record["settings"] == {"text": "copy"}
    assert made.record["session_options"] == {"session.x64quantprecision": "1"}
    assert made.record["versions"] == {"numpy": np.__version__}
    assert made.record["seconds"] > 0
    assert made.record["peak_bytes"] > 1e6
    assert made.log() == "copy"
    assert make(task, "copy") == made
    assert (maker / "ran.txt").read_text() == "3\n"
    assert not (made.folder / "calibration.npz").exists()


def replaced(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda scripts, task: replaced(scripts / "by_fake.py"), id="the maker's settings"),
        pytest.param(lambda scripts, task: replaced(scripts / "making.py"), id="what makers share"),
        pytest.param(lambda scripts, task: replaced(scripts.parent / "requirements" / "peer-fake.txt"), id="versions"),
        pytest.param(lambda scripts, task: write_model(task.workload.model, OTHER_WEIGHTS), id="the model"),
        pytest.param(
            lambda scripts, task: task.workload.model.with_name("product.onnx.data").write_bytes(b"0"),
            id="external data",
        ),
    ],
)
def test_an_artifact_is_another_when_what_it_comes_from_changes(
    maker: Path, tmp_path: Path, change: Callable[[Path, Task], Any]
) -> None:
    task = product_task(tmp_path / "model")
    before = place(task)
    assert place(task) == before
    change(maker, task)
    assert place(task) != before


def test_an_artifact_is_another_with_other_rows_and_another_configuration(maker: Path, tmp_path: Path) -> None:
    task = product_task(tmp_path / "model")
    rows = task.workload.calibration
    renamed = [{"others": row["rows"]} for row in rows]
    told = {place(task, feeds=feeds) for feeds in (rows, rows[:2], rows[::-1], rows_of(3, 3), renamed)}
    assert len(told | {place(task, "fail")}) == 6


def test_a_makers_failure_is_kept_and_not_tried_again(maker: Path, tmp_path: Path) -> None:
    task = product_task(tmp_path / "model")
    made = make(task, "fail")
    assert made.error == "ValueError: these rows are too few"
    assert "Traceback" in made.log()
    assert make(task, "fail").error == made.error
    assert (maker / "ran.txt").read_text() == "3\n"
    assert make(task, "nothing").error == "FileNotFoundError: it ended without an error and without a model"


def test_a_maker_that_cannot_start_is_recorded_with_its_last_words(maker: Path, tmp_path: Path) -> None:
    (maker / "by_fake.py").write_text("import a_package_that_nobody_has\n")
    made = make(product_task(tmp_path / "model"), "copy")
    assert made.error == "ended with 1: ModuleNotFoundError: No module named 'a_package_that_nobody_has'"
    assert json.loads((made.folder / "made.json").read_text()) == made.record


def test_a_maker_that_takes_too_long_is_ended(maker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SECONDS", 1)
    made = make(product_task(tmp_path / "model"), "wait")
    assert made.error.startswith("TimeoutExpired")
    assert str(tmp_path) not in made.error


def test_an_environment_that_cannot_be_made_is_a_failure_too(
    maker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(peer: str) -> Path:
        raise OSError("no network")

    monkeypatch.setattr(peers, "interpreter", fail)
    assert make(product_task(tmp_path / "model"), "copy").error == "OSError: no network"


def test_the_table_lists_what_was_made_and_what_failed(
    maker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        Row("fake", "copy"),
        Row("fake", "fail"),
        Row("fake", "copy", {"session.intra_op.allow_spinning": "0"}),
        Row("fake", "copy", samples=1),
    ]
    task = product_task(tmp_path / "model", rows)
    command.table(task, rows, timed=False)
    lines = {line[: command.WIDTH].strip(): line[command.WIDTH :] for line in capsys.readouterr().out.splitlines()}
    assert "1.0000 [1, 1]" in lines["fp32"]
    assert "1.0000 [1, 1]" in lines["fake: copy"]
    assert "1.0000 [1, 1]" in lines["fake: copy, session.intra_op.allow_spinning=0"]
    assert "1.0000 [1, 1]" in lines["fake: copy, calibration rows: 1"]
    assert (maker / "ran.txt").read_text() == "3\n3\n1\n"
    assert lines["fake: fail"].strip() == "fails: ValueError: these rows are too few"
    told = (tmp_path / "logs" / "product-fake.txt").read_text()
    assert told.count("== copy\n") == 2
    assert "error: ValueError: these rows are too few" in told


def test_a_log_is_the_last_lines_as_a_terminal_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    lines = [
        *(f"line {number}" for number in range(20)),
        "\x1b[31m\x1b[1;4mred\x1b[0m and plain  ",
        "   ",
        "  5%|#    | 1/20\r 50%|##   | 10/20\r100%|#####| 20/20",
        f"written to {tmp_path}/made/model.onnx",
        "x" * 300,
    ]
    (tmp_path / "log.txt").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    assert Made(tmp_path, {}).log(5).split("\n") == [
        "red and plain",
        "100%|#####| 20/20",
        "written to made/model.onnx",
        "x" * 160,
        "\N{REPLACEMENT CHARACTER}",
    ]
    assert len(Made(tmp_path, {}).log().split("\n")) == 12
