"""Lists: iterators over pages."""

from itertools import islice

import pytest
from bitpress import Client

from tests.unit.client import documents
from tests.unit.client.misbehaving import Service, answer, page


def test_pages_are_fetched_as_they_are_needed(service: Service, client: Client) -> None:
    items = [documents.model(id=f"mdl_{number}") for number in range(5)]
    service.plan("GET", "/v1/models", page(items[:2], "mdl_1"), page(items[2:4], "mdl_3"), page(items[4:]))
    found = client.models(state="ready")
    assert service.seen == [], "nobody has asked for anything yet"
    assert [model["id"] for model in islice(found, 2)] == ["mdl_0", "mdl_1"]
    assert len(service.seen) == 1
    assert [model["id"] for model in found] == ["mdl_2", "mdl_3", "mdl_4"]
    assert [seen.query for seen in service.seen] == [
        {"state": "ready"},
        {"state": "ready", "cursor": "mdl_1"},
        {"state": "ready", "cursor": "mdl_3"},
    ]


def test_a_cursor_that_does_not_move_ends_the_list(service: Service, client: Client) -> None:
    service.plan("GET", "/v1/jobs", page([documents.job()], "stuck"))
    assert len(list(client.jobs())) == 2


@pytest.mark.parametrize("name", ["targets", "techniques", "metrics"])
def test_the_catalogue_is_a_list(service: Service, client: Client, name: str) -> None:
    service.plan("GET", f"/v1/{name}", answer({"items": [{"id": "one"}], "next_cursor": None}))
    assert getattr(client, name)() == [{"id": "one"}]
