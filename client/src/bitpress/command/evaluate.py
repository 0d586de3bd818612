"""`bitpress evaluate`: measure a model or an artifact, and change nothing."""

from typing import Annotated, Any

import typer

from bitpress.command.options import (
    AtLeast,
    AtMost,
    Batch,
    Conditions,
    Data,
    DryRun,
    JobName,
    Labels,
    Metrics,
    Shares,
    Threads,
    Timeout,
    Wait,
)
from bitpress.command.output import Json
from bitpress.command.session import connected
from bitpress.command.specification import check_alone, conditions_of, goal_of, json_object, shares_of, split
from bitpress.command.submission import submit
from bitpress.command.uploads import check_source, dataset_id, model_id


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file, an id (mdl_… or art_…) or s3://bucket/key.")
    ],
    evaluation: Annotated[str | None, typer.Option(metavar="FILE|ID", help="Data for the metrics.")] = None,
    data: Data = None,
    shares: Shares = None,
    preprocess: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="How images in this file become inputs.")
    ] = None,
    metric: Metrics = None,
    at_least: AtLeast = None,
    at_most: AtMost = None,
    threads: Threads = None,
    batch: Batch = None,
    callers: Annotated[
        list[int] | None, typer.Option(min=1, metavar="NUMBER", help="Also under load: callers side by side.")
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(metavar="NUMBER", help="Also under load: calls a second that arrive.")
    ] = None,
    measure: Conditions = None,
    target: Annotated[str | None, typer.Option(metavar="NAME", help="Where; see `bitpress targets`.")] = None,
    name: JobName = None,
    label: Labels = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Measure a model or an artifact: latency, memory, size, metrics. Nothing is changed."""
    conditions = conditions_of(measure, threads, batch)
    if callers or rate:
        load = {key: value for key, value in (("callers", callers), ("rates", rate)) if value}
        conditions["load"] = {**conditions.get("load", {}), **load}
    given: dict[str, Any] = {
        "split": shares_of(shares),
        "goal": goal_of(None, None, (), at_least or (), at_most or ()),
        "metrics": metric,
        "measure": conditions,
        "target": target,
        "name": name,
        "labels": dict(split(each, "--label") for each in label or ()),
    }
    prepared = json_object(preprocess, "--preprocess") or None
    if not model.startswith("art_"):
        check_source(model, "mdl")
    roles = {"evaluation": evaluation}
    check_alone(data, shares, roles)
    roles["all"] = data
    for source in filter(None, roles.values()):
        check_source(source, "dst")
    with connected() as client:
        spec: dict[str, Any] = {"kind": "evaluate"}
        spec["model"] = model if model.startswith("art_") else model_id(client, model)
        datasets = {role: dataset_id(client, it, prepared) for role, it in roles.items() if it}
        spec |= {"datasets": datasets} if datasets else {}
        spec |= {part: value for part, value in given.items() if value not in (None, {}, [])}
        submit(client, spec, dry_run=dry_run, wait=wait, timeout=timeout, json=json)
