"""What the demo prints of a job, on an invented one."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

DEMO = Path(__file__).parents[3] / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> Any:
    spec = importlib.util.spec_from_file_location("bitpress_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def measured(name: str, value: float, *flags: str) -> dict[str, Any]:
    return {"name": name, "value": value, "ci95": [value * 0.9, value * 1.1], "flags": list(flags)}


def measurements(milliseconds: float, *flags: str) -> list[dict[str, Any]]:
    return [
        measured("artifact_bytes", 264_000),
        measured("latency_p50", milliseconds),
        measured("latency_p99", 2 * milliseconds, *flags),
        measured("top1", 0.9),
    ]


# The ratio of the medians is 1.25, that of pairs 1.60.
JOB = {
    "gate": "met",
    "baseline": {"measurements": measurements(0.10)},
    "candidates": [
        {
            "recipe": {"technique": "static_int8"},
            "measurements": measurements(0.08, "contended"),
            "comparisons": [{"name": "latency_p50", "ratio": 0.625, "ci95": [0.62, 0.63]}],
        }
    ],
    "artifacts": ["art_1"],
}


def printed(demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(demo, "console", Console(width=110))
    monkeypatch.setattr(demo, "fetch", lambda client, job, stem: Path(f"{stem}.onnx"))
    demo.show(None, {"net.onnx": [JOB]}, [{"fingerprint": {"model_name": "A processor", "cores": 2}}])
    return capsys.readouterr().out


def test_table_and_conclusion_say_the_same_speed(
    demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed(demo, capsys, monkeypatch)
    [line] = [line for line in out.splitlines() if line.startswith("static_int8")]
    assert " 1.60 " in line
    assert "1.60 × fp32 (1.59 to 1.61)" in out
    assert "1.25" not in out


def test_every_time_in_doubt_is_marked(
    demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed(demo, capsys, monkeypatch)
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert " 160* " in lines["static_int8"]
    assert " 80 " in lines["static_int8"]
    assert "*" not in lines["fp32"]


def test_no_line_ends_in_spaces(demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = printed(demo, capsys, monkeypatch)
    assert "fp32" in out
    assert [line for line in out.splitlines() if line != line.rstrip()] == []


def test_colours_stay_and_spaces_before_them_go(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "console", Console(width=40, force_terminal=True, color_system="standard"))
    table = Table("a", "b", box=None, pad_edge=False)
    table.add_row("1", "")
    text = demo.trimmed(table)
    assert "\x1b[" in text
    assert all(not line.replace("\x1b[0m", "").endswith(" ") for line in text.splitlines())
