"""One dataset for all roles: which split is meant, and whether it can be made and used."""

from app.domain.dataset import ALL, LEAST_ROWS, Role, Split
from app.domain.job import USUAL_SPLITS, JobSpec
from app.errors import FieldError


def meant_split(spec: JobSpec, made: JobSpec | None) -> Split:
    """The split of a specification that names none; `made` is that of the job which made the artifact, if it is one.

    Where that split the same dataset, so is this one: rows that were calibrated on cannot judge what came of it.
    """
    if made is not None and made.datasets.all == spec.datasets.all:
        return made.split or USUAL_SPLITS[made.kind]
    return USUAL_SPLITS[spec.kind]


def split_errors(spec: JobSpec, rows: int | None) -> list[FieldError]:
    """What is wrong with a split: nothing to split, more than that, or too few rows; `rows` are those of the dataset.

    The codes are `split_not_used`, `all_not_alone`, `evaluation_missing` and `split_too_small`.
    """
    given = spec.datasets.by_role()
    if ALL not in given or spec.split is None:
        if spec.split is None:
            return []
        detail = "split says how datasets.all is shared out: name one dataset as that, or leave split out."
        return [FieldError("/split", "split_not_used", detail)]
    if others := ", ".join(role for role in given if role != ALL):
        detail = (
            f"The rows of datasets.all are given to every role, and there are datasets for {others} too: leave all out "
            f"and give each role a dataset of its own, or leave {others} out."
        )
        return [FieldError("/datasets/all", "all_not_alone", detail)]
    if spec.kind == "evaluate" and not spec.split.evaluation:
        detail = "kind: evaluate uses evaluation rows alone, and the split has none: give evaluation a share."
        return [FieldError("/split/evaluation", "evaluation_missing", detail)]
    shares = _shares(spec, spec.split)
    if rows is None or rows >= (needed := sum(LEAST_ROWS[role] for role in shares)):
        return []
    each = ", ".join(f"{LEAST_ROWS[role]} for {role}" for role in shares)
    detail = (
        f"The dataset has {rows:,} rows, and the split needs {needed} or more: {each}. Give one with more rows, leave "
        "a role out of split, or give each role a dataset of its own."
    )
    return [FieldError("/datasets/all", "split_too_small", detail)]


def split_doubts(spec: JobSpec, rows: int | None) -> list[str]:
    """The roles that may be given too few rows, as hashes fall."""
    if spec.split is None or rows is None or split_errors(spec, rows):
        return []
    doubts = []
    for role, share in _shares(spec, spec.split).items():
        # Two standard deviations of a binomial; where rows come in groups they spread further.
        if rows * share - 2 * (rows * share * (1 - share)) ** 0.5 < LEAST_ROWS[role]:
            doubts.append(
                f"About {rows * share:.0f} of {rows:,} rows would go to {role}, which needs {LEAST_ROWS[role]}: the "
                "job may fail with split_too_small."
            )
    return doubts


def doubts_of_made(spec: JobSpec, made: JobSpec) -> list[str]:
    """Whether an artifact is judged on rows that it was made with, by the job whose specification is `made`."""
    judges = spec.datasets.evaluation or spec.datasets.all
    if judges is None:
        return []
    used = [role for role, dataset in made.datasets.by_role().items() if dataset == judges and role != "evaluation"]
    if used == [ALL] and made.split is not None:
        share = spec.split.evaluation if spec.datasets.all is not None and spec.split is not None else 1.0
        if share <= made.split.evaluation:
            return []
        return [
            "Of these rows some helped to make the artifact, by the split of its job: what they say of it is not held "
            "out. Give the dataset as datasets.all and leave split out to judge by the others alone."
        ]
    if not used:
        return []
    return [f"The artifact was made with these rows, as {', '.join(used)}: what they say of it is not held out."]


def _shares(spec: JobSpec, split: Split) -> dict[Role, float]:
    """The roles whose rows a job uses and that get some rows of several."""
    return {
        role: share
        for role, share in split.shares.items()
        if share < 1 and (spec.kind == "optimize" or role == "evaluation")
    }
