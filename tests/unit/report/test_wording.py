"""Numbers as the page writes them: in units that fit, with the digits that tell them from their ideal."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.report.wording import interval, written


def plain(text: str | None) -> str:
    assert text is not None
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("name", "unit", "value", "text"),
    [
        ("cpu_per_inference", "s", 3.72e-05, "37.2 µs"),
        ("cpu_per_inference", "s", 0.0123, "12.3 ms"),
        ("cpu_per_inference", "s", 2.5, "2.50 s"),
        ("cpu_per_inference", "s", 0.0, "0 s"),
        ("energy_per_inference", "J", 4.5e-4, "450 µJ"),
        ("energy_per_inference", "J", 0.25, "250 mJ"),
        ("latency_p50", "ms", 0.0588, "0.0588 ms"),
        ("cosine", "1", 0.99987, "0.99987"),
        ("cosine", "1", 0.9999999871, "0.999999987"),
        ("cosine", "1", 1 - 2e-12, "1 − 2.0e-12"),
        ("cosine", "1", 1.0, "1.00"),
        ("cosine", "1", 0.87, "0.870"),
        ("max_error", "1", 0.9999, "1.000"),
    ],
)
def test_a_number_is_written_as_it_is_read(name: str, unit: str, value: float, text: str) -> None:
    assert plain(written({"name": name, "unit": unit, "value": value})) == text


def test_an_interval_near_one_does_not_collapse() -> None:
    found: dict[str, Any] = {"name": "cosine", "unit": "1", "value": 0.99991, "ci95": [0.99987, 0.99994]}

    assert (plain(written(found)), plain(interval(found))) == ("0.999910", "0.99987 to 0.999940")


def test_ends_in_two_units_have_both() -> None:
    found = {"name": "cpu_per_inference", "unit": "s", "value": 1e-3, "ci95": [9e-4, 2e-3]}

    assert plain(interval(found)) == "900 µs to 2.00 ms"


@given(
    st.floats(1e-9, 9.9),
    st.sampled_from([("s", {"s": 1, "ms": 1e-3, "µs": 1e-6}), ("J", {"J": 1, "mJ": 1e-3, "µJ": 1e-6})]),
)
def test_what_is_written_is_the_value(value: float, unit: tuple[str, dict[str, float]]) -> None:
    number, said = plain(written({"name": "x", "unit": unit[0], "value": value})).split(" ")

    assert float(number) * unit[1][said] == pytest.approx(value, rel=6e-3)


@given(st.floats(1e-9, 0.0099))
def test_a_cosine_s_distance_from_one_keeps_two_digits(away: float) -> None:
    text = plain(written({"name": "cosine", "unit": "1", "value": 1 - away}))

    found = 1 - float(text) if re.fullmatch(r"[\d.]+", text) else float(text.split("− ")[1])
    assert found == pytest.approx(away, rel=0.06, abs=6e-10)
