"""Whose role a row has: held against a plain reading of the rule, and against what a split must keep."""

import math
from collections import defaultdict
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from app.domain.dataset import Preprocess, Split
from tests.unit.formats.test_datasets import as_images, as_npz, as_packed_npz, as_parquet, picture
from workers.formats.datasets.opening import open_dataset
from workers.formats.datasets.splitting import Groups, read_groups, split_rows

USUAL = Split(calibration=0.2, tuning=0.2, evaluation=0.6)

# Contents repeat now and then, as they do in data.
CONTENTS = st.lists(st.integers(0, 40).map(lambda value: value.to_bytes(16, "big")), min_size=1, max_size=60)
NAMES = st.text(st.characters(max_codepoint=0x2FFF), max_size=3)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    low, high = sorted(draw(st.tuples(st.integers(0, 20), st.integers(0, 20))))
    return Split(calibration=low / 20, tuning=(high - low) / 20, evaluation=(20 - high) / 20)


def roles(digests: list[bytes], names: list[str] | None, split: Split) -> list[str]:
    """The role of each row, once every row has just one."""
    groups = None
    if names is not None:
        known = sorted(set(names))
        groups = Groups(tuple(known), np.array([known.index(name) for name in names]))
    found: list[list[str]] = [[] for _ in digests]
    for role, numbers in split_rows(digests, groups, split).items():
        assert numbers.tolist() == sorted(set(numbers.tolist()))
        for number in numbers.tolist():
            found[number].append(role)
    assert all(len(each) == 1 for each in found), "a row has no role, or two"
    return [role for [role] in found]


def plain_roles(digests: list[bytes], names: list[str] | None, split: Split) -> list[str]:
    """The rule as one would write it down, slowly and without numbers of machines."""

    def hashed(kind: str, name: bytes) -> str:
        whole = f"bitpress split 1\0{kind}\0".encode() + name
        return "".join(f"{byte:08b}" for byte in blake2b(whole, digest_size=16).digest())

    def role(bits: str) -> str:
        place = Fraction(int(bits[:53], 2), 2**53)
        if place < Fraction(split.calibration).limit_denominator(1000):
            return "calibration"
        return "tuning" if place < 1 - Fraction(split.evaluation).limit_denominator(1000) else "evaluation"

    if names is None:
        return [role(hashed("row", digest)) for digest in digests]
    together = {name: {name} for name in names}
    for _ in names:
        for one, its_name in zip(digests, names, strict=True):
            for other, another in zip(digests, names, strict=True):
                if one == other:
                    union = together[its_name] | together[another]
                    together.update(dict.fromkeys(union, union))
    found = []
    for name in names:
        bits = min((hashed("group", each.encode()) for each in together[name]), key=lambda bits: bits[64:])
        found.append(role(bits))
    return found


@given(CONTENTS, splits())
@settings(deadline=None)
def test_rows_are_where_the_plain_rule_puts_them(digests: list[bytes], split: Split) -> None:
    assert roles(digests, None, split) == plain_roles(digests, None, split)


@given(st.lists(st.tuples(st.integers(0, 9), NAMES), min_size=1, max_size=12), splits())
@settings(deadline=None)
def test_groups_are_where_the_plain_rule_puts_them(rows: list[tuple[int, str]], split: Split) -> None:
    digests, names = [bytes([content]) for content, _ in rows], [name for _, name in rows]
    assert roles(digests, names, split) == plain_roles(digests, names, split)


def test_the_rule_stays_as_it_is() -> None:
    """Numbers that were written down once: another rule needs another salt, and would move everybody's rows."""
    digests = [bytes([number]) * 16 for number in range(24)]
    letters = {"calibration": "c", "tuning": "t", "evaluation": "e"}
    assert "".join(letters[role] for role in roles(digests, None, USUAL)) == "etteteceeteceecececeeeee"
    names = [str(number) for number in range(24)]
    assert "".join(letters[role] for role in roles(digests, names, USUAL)) == "etececetceeceeettttctcee"


@given(CONTENTS, splits(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_rows_does_not_matter(digests: list[bytes], split: Split, random: Any) -> None:
    before = dict(zip(digests, roles(digests, None, split), strict=True))
    shuffled = random.sample(digests, len(digests))
    assert roles(shuffled, None, split) == [before[digest] for digest in shuffled]


@given(CONTENTS, CONTENTS, splits())
@settings(deadline=None)
def test_rows_that_are_added_move_none(digests: list[bytes], more: list[bytes], split: Split) -> None:
    assert roles(more + digests, None, split)[len(more) :] == roles(digests, None, split)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=60), splits())
@settings(deadline=None)
def test_groups_stay_together_and_where_they_are(of_rows: list[int], more: list[int], split: Split) -> None:
    names = [str(group) for group in of_rows + more]
    digests = [number.to_bytes(16, "big") for number in range(len(names))]
    found = roles(digests, names, split)
    assert len(set(zip(names, found, strict=True))) == len(set(names))
    assert roles(digests[: len(of_rows)], names[: len(of_rows)], split) == found[: len(of_rows)]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=40), splits())
@settings(deadline=None)
def test_neither_a_row_nor_a_group_is_in_two_roles(rows: list[tuple[int, int]], split: Split) -> None:
    digests, names = [bytes([content]) for content, _ in rows], [str(group) for _, group in rows]
    found = roles(digests, names, split)
    for keys in (digests, names):
        by_key = defaultdict(set)
        for key, role in zip(keys, found, strict=True):
            by_key[key].add(role)
        assert all(len(each) == 1 for each in by_key.values())


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("split", [USUAL, Split(calibration=0.5, evaluation=0.5), Split(tuning=0.05, evaluation=0.95)])
def test_shares_are_met_as_often_as_chance_would(split: Split, grouped: bool) -> None:
    """Over many datasets the counts spread as those of a binomial, around the share that was asked for."""
    rng = np.random.default_rng(3)
    rows, sets = 500, 200
    for role, share in split.shares.items():
        counts = []
        for _ in range(sets):
            digests = [rng.bytes(16) for _ in range(rows)]
            names = [digest.hex() for digest in digests] if grouped else None
            counts.append(roles(digests, names, split).count(role))
        spread = math.sqrt(rows * share * (1 - share))
        assert abs(np.mean(counts) - rows * share) < 4 * spread / math.sqrt(sets)
        assert 0.8 < np.std(counts) / spread < 1.2


@given(splits(), splits())
@settings(deadline=None)
def test_a_share_that_is_kept_keeps_its_rows(one: Split, other: Split) -> None:
    """Whoever takes tuning rows from calibration leaves evaluation as it was, and the other way round."""
    digests = [bytes([number]) * 16 for number in range(200)]
    before, after = split_rows(digests, None, one), split_rows(digests, None, other)
    for role in ("calibration", "evaluation"):
        if getattr(one, role) == getattr(other, role) > 0:
            assert before[role].tolist() == after[role].tolist()
        elif 0 < getattr(one, role) < getattr(other, role):
            assert set(before[role].tolist()) <= set(after[role].tolist())


@pytest.mark.parametrize(
    "shares",
    [
        {"calibration": 0.2, "evaluation": 0.7},
        {"calibration": 1.1, "evaluation": -0.1},
        {"evaluation": float("nan")},
        {"evaluation": 1, "testing": 0},
        {},
        {"calibration": 20, "evaluation": 80},
    ],
)
def test_shares_are_parts_of_one(shares: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Split.model_validate(shares)


@pytest.mark.parametrize(
    "shares",
    [
        {"calibration": 1 / 3, "tuning": 1 / 3, "evaluation": 1 / 3},
        {"calibration": 0.1, "tuning": 0.2, "evaluation": 0.7},
        {"calibration": 0.3333, "evaluation": 0.6667},
        {"calibration": 0.9999995},
        {"tuning": 0.9999995},
        {"tuning": 0.5, "evaluation": 0.4999995},
        {"evaluation": 1},
    ],
)
def test_no_row_falls_between_shares_that_are_not_exact(shares: dict[str, float]) -> None:
    roles([bytes([number % 256, number // 256]) for number in range(3_000)], None, Split.model_validate(shares))


def test_the_last_share_reaches_to_the_end() -> None:
    for shares in ({"calibration": 0.9999991}, {"tuning": 0.9999991}, {"calibration": 0.5, "tuning": 0.4999991}):
        assert Split.model_validate(shares).ends[1] == 1
    assert Split(evaluation=0.9999991).ends[0] == 0


# Of files


def arrays(rows: int = 60) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(5)
    return {
        "image": rng.normal(size=(rows, 3, 4)).astype(np.float32),
        "ids": rng.integers(0, 50, (rows, 5)),
        "labels": rng.integers(0, 10, rows),
        "groups": np.arange(rows) // 4,
    }


@pytest.mark.parametrize("grouped", [False, True])
def test_the_same_rows_have_the_same_roles_in_every_format(tmp_path: Path, grouped: bool) -> None:
    found = []
    swapped = {name: array.astype(array.dtype.newbyteorder()) for name, array in arrays().items()}
    fortran = {name: np.asfortranarray(array) for name, array in arrays().items()}
    for save, given_arrays in (
        (as_npz, arrays()),
        (as_packed_npz, arrays()),
        (as_parquet, arrays()),
        (as_npz, swapped),
        (as_npz, fortran),
    ):
        with open_dataset(save(tmp_path / "data", given_arrays)) as dataset:
            digests = list(dataset.row_digests(["image", "ids"]))
            numbers = split_rows(digests, read_groups(dataset) if grouped else None, USUAL)
            found.append({role: chosen.tolist() for role, chosen in numbers.items()})
    assert all(each == found[0] for each in found)
    assert all(found[0].values())


def test_labels_and_what_is_no_input_move_no_row(tmp_path: Path) -> None:
    found = []
    for more in ({}, {"labels": np.arange(60)}, {"number_of_row": np.arange(60)}):
        content = {"image": arrays()["image"], "ids": arrays()["ids"], **more}
        with open_dataset(as_npz(tmp_path / "data", content)) as dataset:
            found.append(roles(list(dataset.row_digests(["ids", "image"])), None, USUAL))
    assert found[0] == found[1] == found[2]


def test_pictures_are_split_by_what_the_model_sees(tmp_path: Path) -> None:
    """Files of another name, or saved anew without loss, are the same rows."""
    colours = [(number * 5, 250 - number, 7) for number in range(40)]
    how = Preprocess(input="x", size=(2, 2))
    named = {f"{number:03}.png": picture(colour) for number, colour in enumerate(colours)}
    renamed = {f"{900 - number}.bmp": picture(colour, kind="BMP") for number, colour in enumerate(colours)}
    found = []
    for files in (named, renamed):
        with open_dataset(as_images(tmp_path / "data", files, None), preprocess=how) as dataset:
            found.append(roles(list(dataset.row_digests(["x"])), None, USUAL))
    assert found[0] == found[1][::-1]
    assert set(found[0]) == {"calibration", "tuning", "evaluation"}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.array([7, 7, 300], np.uint16), ("7", "300")),
        (np.array([[-1], [5], [5]]), ("-1", "5")),
        (np.array(["b", "å", "b"]), ("b", "å")),
        (np.array([True, False, True]), ("False", "True")),
        (np.array(["\ud800", "x", "x"]), ("x", "\ud800")),
    ],
)
def test_groups_are_known_by_their_names(tmp_path: Path, values: NDArray[Any], names: tuple[str, ...]) -> None:
    with open_dataset(as_npz(tmp_path / "data", {"x": np.zeros(3), "groups": values})) as dataset:
        groups = read_groups(dataset)
    assert sorted(groups.names) == sorted(names)
    assert [groups.names[index] for index in groups.of_rows] == [str(value) for value in values.reshape(-1)]
    split_rows([b"1", b"2", b"3"], groups, USUAL)


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        (["0"], True),
        (["1", "2", "3"], True),
        (["2", "0", "1", "10", *"3456789"], True),
        (["0", "2"], False),
        (["2", "3"], False),
        (["-1", "0"], False),
        (["a"], False),
        (["1", "01"], False),
        (["1" * 5_000], False),
        (["0", "1", "b"], False),
    ],
)
def test_numbers_without_a_gap_were_counted(names: list[str], counted: bool) -> None:
    assert Groups(tuple(names), np.arange(len(names))).counted is counted
