"""Options that several commands take: of lists, and about a job."""

from typing import Annotated

import typer

Limit = Annotated[int, typer.Option(min=1, help="How many at most, newest first.")]
UploadState = Annotated[str | None, typer.Option(help="Only those: inspecting, ready or rejected.")]

Data = Annotated[
    str | None, typer.Option("--data", metavar="FILE|ID", help="One dataset for every role: the service splits it.")
]
Shares = Annotated[
    str | None,
    typer.Option("--split", metavar="ROLE=SHARE,…", help="How: calibration=0.2,tuning=0.2,evaluation=0.6."),
]

Metrics = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Also measured; see `bitpress metrics`.")]
AtLeast = Annotated[list[str] | None, typer.Option(metavar="METRIC=NUMBER", help="Least value allowed: top1=0.9.")]
AtMost = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC=NUMBER", help="Greatest value allowed: latency_p50=5 (in ms)."),
]
Threads = Annotated[list[int] | None, typer.Option(min=1, metavar="NUMBER", help="Threads to measure with.")]
Batch = Annotated[list[int] | None, typer.Option(min=1, metavar="NUMBER", help="Rows a call to measure with.")]
Conditions = Annotated[
    str | None,
    typer.Option("--measure", metavar="JSON|@FILE", help="All conditions of measuring; other options win."),
]
JobName = Annotated[str | None, typer.Option(metavar="TEXT", help="A name for the job.")]
Labels = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A mark of your own.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run; create no job.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end and print what was found.")]
Timeout = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Stop waiting after this time.")]
