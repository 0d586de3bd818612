"""The report of a real job as its readers meet it, and what several jobs say of one model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bitpress import Client

from tests.e2e.test_job_path import STATIC, few_rows, value
from tests.parts.browser import Visit, chromium
from tests.parts.service import Service
from tests.unit.report.markup import Page

A_BROWSER_S = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def jobs(service: Service) -> list[dict[str, Any]]:
    """Two jobs of one model, with the same data."""
    model, data = service.example("fashion_mobilenet.onnx"), few_rows(service)
    ended = []
    for recipe in ({**STATIC, "sensitivity": True}, {"technique": "float16"}):
        job = service.submit(
            model=model, datasets=data, recipe=recipe, goal={"constraints": [{"metric": "top1", "min": 0.1}]}
        )
        ended.append(service.ended(job["id"]))
        assert ended[-1]["state"] == "succeeded", ended[-1]["error"] or ended[-1]
    return ended


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, service.key) as made:
        yield made


def test_a_browser_gets_the_page_and_a_program_the_numbers(service: Service, jobs: list[dict[str, Any]]) -> None:
    link = jobs[0]["links"]["report"]
    page = service.api.get(link, headers={"Accept": A_BROWSER_S})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "Accept"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    for accept, query in (("*/*", ""), ("application/json", ""), (A_BROWSER_S, "?format=json")):
        numbers = service.api.get(link + query, headers={"Accept": accept})
        assert numbers.headers["content-type"] == "application/json"
        assert numbers.headers["vary"] == "Accept"
        assert numbers.json()["job"] == jobs[0]["id"]
    assert service.api.get(link + "?format=html", headers={"Accept": "application/json"}).content == page.content
    assert service.api.get(link + "?format=pdf").status_code == 422


def test_nobody_reads_it_without_the_key(service: Service, jobs: list[dict[str, Any]]) -> None:
    for query in ("", "?format=html"):
        answer = httpx.get(service.url + jobs[0]["links"]["report"] + query, headers={"Accept": A_BROWSER_S})
        assert (answer.status_code, answer.json()["code"]) == (401, "key_missing")


def test_it_says_what_the_job_found(service: Service, client: Client, jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        page = Page(client.report_page(job["id"]).decode())
        assert job["conclusion"] in page.text
        rows = service.job(job["id"])["baseline"]["measurements"]
        assert f"{100 * value(rows, 'top1')['value']:.1f}" in page.text
        assert "latency of " in page.text, "the seconds of the steps"
        for name in job["spec"]["datasets"].values():
            if name:
                assert service.api.get(f"/v1/datasets/{name}").json()["sha256"] in page.text


def test_a_real_browser_shows_it_without_network(
    service: Service, client: Client, jobs: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(client.report_page(jobs[0]["id"]))
    with chromium() as browser:
        for width, scheme in ((1200, "light"), (400, "dark")):
            visit = Visit(browser, width=width, scheme=scheme)
            visit.open(file)
            assert visit.requests == []
            assert visit.complaints == []
            boxes = [figure.bounding_box() for figure in visit.page.query_selector_all("figure svg")]
            assert len(boxes) >= 4, "two of what is traded, latency, layers"
            assert all(box["width"] > 300 and box["height"] > 100 for box in boxes)
            assert jobs[0]["conclusion"] in visit.page.inner_text("main")
            visit.close()


def test_a_browser_that_opens_the_link_shows_it_too(service: Service, jobs: list[dict[str, Any]]) -> None:
    """With the headers that the service sends, which take from the page all that it does not need."""
    with chromium() as browser:
        context = browser.new_context(extra_http_headers={"Authorization": f"Bearer {service.key}"})
        page = context.new_page()
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(service.url + jobs[0]["links"]["report"])
        assert asked == [service.url + jobs[0]["links"]["report"]]
        assert said == []
        assert jobs[0]["conclusion"] in page.inner_text("main")
        assert page.query_selector("figure svg").bounding_box()["width"] > 300
        context.close()


def test_the_frontier_has_every_variant_of_both_jobs(client: Client, jobs: list[dict[str, Any]]) -> None:
    found = client.frontier(jobs[0]["model"], constraints=["max_drop:top1<=1", "latency<=1e6"])
    groups = [
        group
        for group in found["groups"]
        if {jobs[0]["id"]} & {job for each in group["variants"] for job in each["jobs"]}
    ]
    (group,) = groups
    ids = [variant["id"] for variant in group["variants"]]
    assert {jobs[0]["model"], *jobs[0]["artifacts"], *jobs[1]["artifacts"]} <= set(ids)
    assert group["data"] == {"source": "evaluation", "dataset": jobs[0]["spec"]["datasets"]["evaluation"]}
    assert any(variant["pareto"] for variant in group["variants"])
    assert group["best"]["variant"] in ids
    assert all(each["standing"] == "met" for variant in group["variants"] for each in variant["constraints"])


def test_two_artifacts_and_their_model_are_compared(client: Client, jobs: list[dict[str, Any]]) -> None:
    first, second = jobs[0]["artifacts"][0], jobs[1]["artifacts"][0]
    found = client.compare(jobs[0]["model"], first, second)
    rows = {row["name"]: row["values"] for row in found["measurements"]}
    assert [entry["id"] for entry in found["entries"]] == [jobs[0]["model"], first, second]
    for name, basis in (("artifact_bytes", "exact"), ("latency_p50", "paired"), ("top1", "paired")):
        assert [each["difference"]["basis"] for each in rows[name][1:]] == [basis, basis], name
    # The job's own comparison is what is told.
    compared = value(jobs[0]["candidates"][0]["comparisons"], "latency_p50")
    assert rows["latency_p50"][1]["difference"]["ratio"] == pytest.approx(compared["ratio"])
    assert rows["latency_p50"][1]["difference"]["ratio_ci95"] == pytest.approx(compared["ci95"])
    between = {row["name"]: row["values"][1]["difference"] for row in client.compare(first, second)["measurements"]}
    assert between["latency_p50"]["basis"] == "through_original"
    assert json.dumps(between)
