"""Print the table: see the package's first lines."""

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from benchmarks.models import smollm2
from benchmarks.models.workload import session_run
from benchmarks.quantization import judging, peers
from benchmarks.quantization.judging import Figure
from benchmarks.quantization.peers import Made
from benchmarks.quantization.tasks import TASKS, Row, Task
from workers.hardware.probe import probe

LOGS = Path(__file__).with_name("logs")
WIDTH = 78


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=sys.modules["benchmarks.quantization"].__doc__)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="all of them where none is named")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name holds one of these")
    parser.add_argument("--windows", type=int, default=smollm2.WINDOWS["evaluation"], help="of SmolLM2's evaluation")
    parser.add_argument("--made", action="store_true", help="rows alone that are made already")
    parser.add_argument("--untimed", action="store_true", help="without latencies, on a machine that is not quiet")
    given = parser.parse_args(arguments)
    smollm2.WINDOWS["evaluation"] = given.windows
    print(f"onnxruntime {ort.__version__}, {probe().model_name} ({platform.machine()}), one thread; 95 % intervals")
    for name in given.tasks or TASKS:
        task = TASKS[name]()
        rows = [row for row in task.rows if any(part in row.name for part in given.only)]
        if given.made:
            rows = [row for row in rows if _is_made(task, row)]
        table(task, rows, timed=not given.untimed)


def _is_made(task: Task, row: Row) -> bool:
    of = task.workload
    return (peers.place(row.peer, row.configuration, of.model, task.calibration(row), of.name) / "made.json").exists()


def _make(task: Task, row: Row) -> Made:
    of = task.workload
    return peers.make(row.peer, row.configuration, of.model, task.calibration(row), of.name)


def table(task: Task, rows: Sequence[Row], *, timed: bool) -> None:
    """Print a row as soon as it is measured, and write what the makers said under `logs/`."""
    workload = task.workload
    print(f"\n{task.about}; {len(workload.calibration)} calibration rows")
    original = judging.judge(task, workload.model, {})
    baseline = session_run(workload.model)
    feed = task.step(baseline)
    names = list(judging.scores(original))
    heads = ["agreement", *names]
    print(
        f"{'':{WIDTH}}"
        + "".join(f"{head:>22}" for head in heads)
        + "      ms  × fp32      MB     made in  processor   peak GB"
    )
    for row in (None, *rows):
        made = _make(task, row) if row else None
        if row and made and made.error:
            print(f"{row.name:{WIDTH}}  fails: {made.error[:150]}", flush=True)
            continue
        model = made.model if made else workload.model
        entries = {**made.record["session_options"], **row.entries} if row and made else {}
        try:
            judged = judging.judge(task, model, entries)
            run = session_run(model, entries=entries)
            step, ratio = judging.step_ms(baseline, run, feed) if timed else (float("nan"), float("nan"))
        except Exception as error:  # onnxruntime has a class an error
            shown = " ".join(str(error).split())[:150]
            print(f"{row.name if row else 'fp32':{WIDTH}}  made, but does not run: {shown}", flush=True)
            continue
        figures = [judging.agreement(task, judged, original), *judging.scores(judged).values()]
        print(
            f"{row.name if row else 'fp32':{WIDTH}}"
            + "".join(f"{_shown(figure):>22}" for figure in figures)
            + f"{step:8.2f}  {ratio:6.2f}  {size_mb(model):6.1f}  {_cost(made)}",
            flush=True,
        )
    write_logs(task, rows)


def size_mb(model: Path) -> float:
    """Of a model and its external data, in 10^6 bytes."""
    files = {*model.parent.glob(f"{model.name}*"), *model.parent.glob(f"{model.stem}*.data")}
    return sum(file.stat().st_size for file in files) / 1e6


def _shown(figure: Figure) -> str:
    value = f"{figure.value:.4f}" if figure.value < 2 else f"{figure.value:.2f}"
    if figure.low != figure.low:
        return value
    return f"{value} [{figure.low:.3g}, {figure.high:.3g}]"


def _cost(made: Made | None) -> str:
    if made is None:
        return ""
    record = made.record
    return f"{record['seconds']:7.1f} s  {record['processor_seconds']:7.1f} s  {record['peak_bytes'] / 1e9:8.2f}"


def write_logs(task: Task, rows: Sequence[Row]) -> None:
    """One file a task and maker: versions, settings, costs, errors, and the last lines that were printed."""
    LOGS.mkdir(exist_ok=True)
    parts: dict[str, list[str]] = {}
    for row in {(row.peer, row.configuration, row.samples): row for row in rows}.values():
        made = _make(task, row)
        facts = "\n".join(f"{key}: {value}" for key, value in made.record.items())
        parts.setdefault(row.peer, []).append(f"== {row.configuration}\n{facts}\n-- printed last\n{made.log()}\n")
    for peer, texts in parts.items():
        (LOGS / f"{task.workload.name}-{peer}.txt").write_text("\n".join(texts))


if __name__ == "__main__":
    main(sys.argv[1:])
