"""From options of the command line to a job's specification; what is not said stays the service's default."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer


def recipe_of(
    recipe: str | None, technique: str | None, options: Sequence[str], keep_float: Sequence[str]
) -> dict[str, Any]:
    """A recipe from JSON and from single options, which win; empty where none of them says anything."""
    made = json_object(recipe, "--recipe")
    if technique is not None:
        made["technique"] = technique
    for option in options:
        name, text = split(option, "--option")
        place = made
        *outer, last = name.split(".")
        for part in outer:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise typer.BadParameter(f"{part!r} of {name!r} already has a value of its own", param_hint="--option")
            place = inner
        place[last] = plain(text)
    if keep_float:
        made["keep_float"] = [*made.get("keep_float", []), *map(_node, keep_float)]
    return made


def conditions_of(measure: str | None, threads: Sequence[int] | None, batch: Sequence[int] | None) -> dict[str, Any]:
    """What latency is measured under: the JSON, and the options that win over it."""
    given = {name: list(value) for name, value in (("threads", threads), ("batch", batch)) if value}
    return json_object(measure, "--measure") | given


def goal_of(
    goal: str | None,
    minimize: str | None,
    max_drop: Sequence[str],
    at_least: Sequence[str],
    at_most: Sequence[str],
) -> dict[str, Any] | None:
    """A goal from JSON and from single options, which are added to it."""
    made = json_object(goal, "--goal")
    if minimize is not None:
        weighted = "=" in minimize
        made["minimize"] = dict(_bound(each, "--minimize") for each in minimize.split(",")) if weighted else minimize
    constraints = [
        {"metric": metric, bound: value}
        for given, bound, option in (
            (max_drop, "max_drop", "--max-drop"),
            (at_least, "min", "--at-least"),
            (at_most, "max", "--at-most"),
        )
        for metric, value in (_bound(each, option) for each in given)
    ]
    if constraints:
        made["constraints"] = [*made.get("constraints", []), *constraints]
    return made or None


def shares_of(text: str | None) -> dict[str, float] | None:
    """Shares by role, as `calibration=0.2,evaluation=0.8`."""
    return None if text is None else dict(_bound(each, "--split") for each in text.split(","))


def check_alone(data: str | None, shares: str | None, roles: Mapping[str, str | None]) -> None:
    """Refuse one dataset for all roles beside those of single roles, and shares of nothing."""
    given = [f"--{role}" for role, source in roles.items() if source]
    if data and given:
        raise typer.BadParameter(
            f"is split into all roles: leave it out, or leave {', '.join(given)} out", param_hint="--data"
        )
    if shares is not None and not data:
        raise typer.BadParameter("says how --data is shared out: give that too", param_hint="--split")


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """A JSON object given in place or as `@file`; an empty one for None."""
    if text is None:
        return {}
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"cannot read {text[1:]}: {error}", param_hint=option) from None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from None
    if not isinstance(value, dict):
        raise typer.BadParameter("has to be a JSON object: {…}", param_hint=option)
    return value


def split(text: str, option: str) -> tuple[str, str]:
    """Split `name=value`."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r} is not of the form name=value", param_hint=option)
    return name, value


def plain(text: str) -> Any:
    """A value as JSON where it is JSON, else the text itself: `true`, `0.5`, `percentile`."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _node(text: str) -> str | dict[str, str]:
    op_type = text.removeprefix("op_type=")
    return text if op_type == text else {"op_type": op_type}


def _bound(text: str, option: str) -> tuple[str, float]:
    name, value = split(text, option)
    try:
        return name, float(value)
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is not a number; shares are fractions: 0.01 is one point", param_hint=option
        ) from None
