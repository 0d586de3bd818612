"""The page where it will be read: a real browser without network, wide and narrow, by day and by night."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parts.browser import Visit, chromium
from tests.unit.report.loaded import document, under_every_condition
from tests.unit.report.test_page import everywhere
from workers.report.page import render

_CONTRAST = """
() => {
  const channel = (value) => { value /= 255; return value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4 }
  const light = (rgb) => rgb.reduce((sum, value, place) => sum + [.2126, .7152, .0722][place] * channel(value), 0)
  const parse = (text) => text.match(/[\\d.]+/g).map(Number)
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor)
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3)
    }
    return [255, 255, 255]
  }
  const poor = []
  const written = 'p, th, td, dt, dd, small, li, h1, h2, h3, summary, a, figcaption, span.verdict, text'
  for (const element of document.querySelectorAll(written)) {
    if (!element.textContent.trim()) continue
    const style = getComputedStyle(element)
    const ink = parse(element.tagName === 'text' ? style.fill : style.color).slice(0, 3)
    const [a, b] = [light(ink), light(behind(element))]
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05)
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`)
  }
  return poor
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def file(profiled: dict[str, Any], cache: Path, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(profiled, cache=cache), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_opens_without_network_and_without_complaint(browser: Any, file: Path, width: int, scheme: str) -> None:
    visit = Visit(browser, width=width, scheme=scheme)
    visit.open(file)

    assert visit.requests == []
    assert visit.complaints == []
    boxes = [figure.bounding_box() for figure in visit.page.query_selector_all("figure svg")]
    assert len(boxes) == 6
    for box in boxes:
        assert 300 <= box["width"] <= width
        assert box["height"] > 100
    # Nothing sticks out: what is wider than the window scrolls in a frame of its own.
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.evaluate(_CONTRAST) == []
    visit.close()


@pytest.mark.parametrize("width", [1200, 390, 360])
def test_no_measurement_or_operator_has_to_be_scrolled_for(
    browser: Any, cache: Path, tmp_path: Path, profiled: dict[str, Any], width: int
) -> None:
    """Of many conditions, with doubts and intervals, and with kernels that were fused."""
    kernel = "com.microsoft.nchwc:QLinearConvWithEverythingFused(uint8, int8)"
    profiled["operators"]["original"][0]["kernel"] = kernel
    several = document(under_every_condition(0.5))
    for found in (*several["baseline"]["measurements"], *several["candidates"][0]["measurements"]):
        found["flags"] = ["contended"]
    profiled["baseline"]["measurements"] += several["baseline"]["measurements"]
    profiled["candidates"][0]["measurements"] += several["candidates"][0]["measurements"]
    path = tmp_path / "report.html"
    path.write_text(render(profiled, cache=cache), encoding="utf-8")
    visit = Visit(browser, width=width)
    visit.open(path)
    visit.page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")

    for name in ("Measurements", "Operators"):
        frame = visit.page.query_selector(f'[role=region][aria-label="{name}"]')
        assert frame.evaluate("(each) => each.scrollWidth - each.clientWidth") <= 0, name
    assert kernel in visit.page.inner_text("main")
    visit.close()


def test_a_verdict_keeps_its_word_whole_beside_a_long_reason(
    browser: Any, file: Path, profiled: dict[str, Any]
) -> None:
    profiled["verdicts"] = [{"verdict": "undecided", "reason": "a reason of many words " * 40}]
    file.write_text(render(profiled, cache=file.parent), encoding="utf-8")
    for width in (1200, 360):
        visit = Visit(browser, width=width)
        visit.open(file)
        box = visit.page.query_selector(".verdicts .verdict").bounding_box()
        assert box["width"] > 60
        assert box["height"] < 40
        visit.close()


def test_its_text_can_be_seen(browser: Any, file: Path, profiled: dict[str, Any]) -> None:
    visit = Visit(browser)
    visit.open(file)

    seen = visit.page.inner_text("main")
    assert profiled["conclusion"] in seen
    assert "Median latency" in seen
    assert visit.page.title().startswith(profiled["model"]["name"])
    # Labels of figures lie inside of them, and none is drawn upon another.
    for figure in visit.page.query_selector_all("figure svg"):
        frame = figure.bounding_box()
        labels = [label.bounding_box() for label in figure.query_selector_all("text")]
        assert len(labels) >= 4
        for box in labels:
            assert box["x"] >= frame["x"] - 6
            assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 6
    visit.close()


def test_night_is_dark_and_day_is_light(browser: Any, file: Path) -> None:
    def brightness(scheme: str) -> float:
        visit = Visit(browser, scheme=scheme)
        visit.open(file)
        colour = visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        visit.close()
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    assert brightness("light") > 0.9
    assert brightness("dark") < 0.2


def test_it_prints_on_white(browser: Any, file: Path) -> None:
    visit = Visit(browser, scheme="dark")
    visit.open(file)
    visit.page.emulate_media(media="print")

    assert visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert len(visit.page.pdf()) > 10_000
    visit.close()


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "</style><script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "\u202eevil",
    ],
)
def test_a_hostile_name_does_nothing(
    browser: Any, profiled: dict[str, Any], cache: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(everywhere(profiled, name), cache=cache), encoding="utf-8")
    visit = Visit(browser)
    visit.open(path)

    assert visit.requests == []
    assert visit.complaints == []
    assert visit.page.evaluate("document.scripts.length + document.images.length") == 0
    visit.close()


@pytest.mark.parametrize("name", ["x" * 3000, "word " * 600, "モデル" * 500])
def test_a_long_name_does_not_push_the_page_apart(
    browser: Any, profiled: dict[str, Any], cache: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(everywhere(profiled, name), cache=cache), encoding="utf-8")
    visit = Visit(browser, width=400)
    visit.open(path)

    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 400
    visit.close()


def test_a_script_that_got_in_would_not_run(browser: Any, file: Path) -> None:
    """The page's own policy, should everything else fail."""
    text = file.read_text(encoding="utf-8")
    attack = "<script>document.title = 'ran'; new Image().src = 'https://example.com/x'</script><img src=https://example.com/y>"
    file.write_text(text.replace("<main>", f"<main>{attack}"), encoding="utf-8")
    visit = Visit(browser)
    visit.open(file)

    assert visit.page.title() != "ran"
    assert visit.requests == []
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)
    visit.close()
