"""What TorchScript does not tell of its inputs is taken from data, or from the shapes that a job names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import StepError
from workers.formats.torch.trust import VARIABLE
from workers.runtimes.session import Port, Session, load
from workers.steps.inputs import DatasetFile
from workers.steps.rows import DatasetRows, SyntheticRows

pytest.importorskip("torch", reason="torch is not installed (extra `train`)")

import torch

from tests.parts import torch_models
from tests.parts.torch_models import save


class Looked(torch.nn.Module):
    """Looks whole numbers up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).mean(1)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")


def opened(module: torch.nn.Module, folder: Path) -> Session:
    return load(save(torch_models.scripted(module), folder / "model.pt"), runtime="torch")


def dataset(folder: Path, **arrays: Any) -> DatasetFile:
    np.savez(folder / "rows.npz", **arrays)
    return DatasetFile(path="rows.npz", file_name="rows.npz")


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_a_dataset_are_fed_as_they_are(batch: int, tmp_path: Path) -> None:
    session = opened(Looked(), tmp_path)
    ids = np.arange(35).reshape(7, 5)
    rows = DatasetRows(session.inputs, dataset(tmp_path, ids=ids, labels=np.zeros(7, np.int64)), tmp_path, "evaluation")

    assert rows.size(batch) == batch
    feeds = list(rows.feeds(batch))
    assert [feed["ids"].dtype for feed in feeds] == [np.int64] * len(feeds)
    np.testing.assert_array_equal(np.concatenate([feed["ids"] for feed in feeds]), ids)
    assert session.run(feeds[0])[0].shape == (batch, 4)


def test_made_up_rows_have_the_shapes_that_are_named(tmp_path: Path) -> None:
    session = opened(torch_models.Picture(), tmp_path)
    rows = SyntheticRows(session, shapes={"image": (1, 3, 8, 8)})

    [feed] = rows.feeds(5, 0, 5)
    assert (feed["image"].dtype, feed["image"].shape) == (np.float32, (5, 3, 8, 8))


def test_made_up_rows_are_whole_numbers_where_floats_are_refused(tmp_path: Path) -> None:
    session = opened(Looked(), tmp_path)
    rows = SyntheticRows(session, shapes={"ids": (1, 6)})

    feeds = [feed["ids"] for feed in rows.feeds(4)]
    assert {feed.dtype.name for feed in feeds} == {"int64"}
    assert {feed.shape for feed in feeds} == {(4, 6)}
    assert max(int(feed.max()) for feed in feeds) < 50, "as the table has rows"


def test_without_either_it_says_what_to_name(tmp_path: Path) -> None:
    session = opened(Looked(), tmp_path)
    for shapes in (None, {}):
        with pytest.raises(StepError) as raised:
            SyntheticRows(session, shapes=shapes)
        assert raised.value.code == "shapes_missing"
        assert "ids" in raised.value.detail


def test_shapes_that_the_model_refuses(tmp_path: Path) -> None:
    """What it says of floats is told: whole numbers were only a second guess."""
    with pytest.raises(StepError) as raised:
        SyntheticRows(opened(torch_models.Picture(), tmp_path), shapes={"image": (1, 5, 8, 8)})
    assert raised.value.code == "model_does_not_run"
    assert "channels" in raised.value.detail


def test_what_a_file_tells_is_left_as_it_is(tmp_path: Path) -> None:
    path = save(torch_models.exported(torch_models.Dense()), tmp_path / "model.pt2")
    session = load(path, runtime="torch")
    rows = SyntheticRows(session, shapes={})

    assert isinstance(session.inputs[0], Port)
    [feed] = rows.feeds(2, 0, 2)
    assert feed["x"].shape == (2, 4)


def test_the_first_run_is_the_one_that_tried_what_it_takes(tmp_path: Path) -> None:
    session: Any = opened(Looked(), tmp_path)
    assert session.first_run_ms is None

    rows = SyntheticRows(session, shapes={"ids": (1, 6)})
    first = session.first_run_ms
    for feed in rows.feeds(1, 0, 3):
        session.run(feed)
    assert first > 0
    assert session.first_run_ms == first
