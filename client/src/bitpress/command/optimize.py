"""`bitpress optimize`: from files and options to a job, and to its artifact."""

from pathlib import Path
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
from bitpress.command.specification import check_alone, conditions_of, goal_of, json_object, recipe_of, shares_of, split
from bitpress.command.submission import submit
from bitpress.command.uploads import check_source, dataset_id, model_id


def optimize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file, an id (mdl_…) or s3://bucket/key.")],
    technique: Annotated[
        str | None, typer.Option("--technique", "-t", metavar="NAME", help="See `bitpress techniques`.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="Of the technique; calibration.method=percentile."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="The whole recipe; options above win.")
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Nodes that stay in float: a name, a pattern, or op_type=Softmax."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Data from which ranges are found.")
    ] = None,
    tuning: Annotated[str | None, typer.Option(metavar="FILE|ID", help="Data that guide a search.")] = None,
    evaluation: Annotated[str | None, typer.Option(metavar="FILE|ID", help="Data held out, which judge.")] = None,
    data: Data = None,
    shares: Shares = None,
    preprocess: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="How images in these files become inputs.")
    ] = None,
    goal: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The whole goal.")] = None,
    minimize: Annotated[
        str | None, typer.Option(metavar="WHAT", help="latency, size or memory, or weights: latency=2,size=1.")
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=NUMBER", help="Largest loss allowed: top1=0.01 is one point."),
    ] = None,
    at_least: AtLeast = None,
    at_most: AtMost = None,
    metric: Metrics = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where it will run; see `bitpress targets`.")
    ] = None,
    threads: Threads = None,
    batch: Batch = None,
    measure: Conditions = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, metavar="NUMBER", help="9 is served first.")] = None,
    name: JobName = None,
    label: Labels = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Wait, and save artifact, manifest and report here."),
    ] = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Make a model smaller or faster, and measure what that costs.

    Files are uploaded where the service does not have them yet. Options that take several values are
    given several times.
    """
    # All that can be wrong with the options is said before anything is uploaded.
    made = recipe_of(recipe, technique, option or (), keep_float or ())
    if "technique" not in made:
        raise typer.BadParameter("name one, such as dynamic_int8: see `bitpress techniques`", param_hint="--technique")
    given: dict[str, Any] = {
        "recipe": made,
        "split": shares_of(shares),
        "goal": goal_of(goal, minimize, max_drop or (), at_least or (), at_most or ()),
        "metrics": metric,
        "measure": conditions_of(measure, threads, batch),
        "target": target,
        "priority": priority,
        "name": name,
        "labels": dict(split(each, "--label") for each in label or ()),
    }
    prepared = json_object(preprocess, "--preprocess") or None
    roles = {"calibration": calibration, "tuning": tuning, "evaluation": evaluation}
    check_alone(data, shares, roles)
    roles["all"] = data
    for source, prefix in ((model, "mdl"), *((it, "dst") for it in roles.values() if it)):
        check_source(source, prefix)
    with connected() as client:
        spec: dict[str, Any] = {"model": model_id(client, model)}
        datasets = {role: dataset_id(client, it, prepared) for role, it in roles.items() if it}
        spec |= {"datasets": datasets} if datasets else {}
        spec |= {part: value for part, value in given.items() if value not in (None, {}, [])}
        submit(client, spec, dry_run=dry_run, wait=wait, timeout=timeout, json=json, output=output)
