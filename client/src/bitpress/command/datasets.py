"""`bitpress datasets`"""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from bitpress.command import uploads
from bitpress.command.options import Limit, UploadState
from bitpress.command.output import Json, facts, in_bytes, moment, print_json, print_table, say, shape, show
from bitpress.command.session import connected, id_of
from bitpress.command.specification import json_object

if TYPE_CHECKING:
    from bitpress.types import Dataset

app = typer.Typer(no_args_is_help=True, help="Upload datasets, look at them, delete them.", rich_markup_mode=None)

DatasetId = Annotated[str, typer.Argument(metavar="DATASET", callback=id_of("dst"), help="An id: dst_…")]


@app.command("upload")
def upload_dataset(
    file: Annotated[str, typer.Argument(help="A .npz, .parquet or .zip of images, or s3://bucket/key.")],
    name: Annotated[str | None, typer.Option(help="A name; else the file's.")] = None,
    preprocess: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="How images become inputs.")] = None,
    json: Json = False,
) -> None:
    """Upload a dataset and wait until it has been inspected."""
    prepared = json_object(preprocess, "--preprocess") or None
    with connected() as client:
        dataset = uploads.upload_dataset(client, file, name, prepared)
        print_json(dataset) if json else _print_dataset(dataset)


@app.command("list")
def list_datasets(
    state: UploadState = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """List datasets, newest first."""
    with connected() as client:
        filters = {} if state is None else {"state": state}
        datasets = list(islice(client.datasets(**filters), limit))
        if json:
            print_json(datasets)
            return
        rows = [
            [
                dataset["id"],
                dataset["name"],
                dataset["state"],
                "" if dataset["rows"] is None else f"{dataset['rows']:,}",
                in_bytes(dataset["bytes"]),
                moment(dataset["created_at"]),
            ]
            for dataset in datasets
        ]
        columns = ["id", "name", "state", "rows", "size", "created"]
        print_table(columns, rows, right=["rows", "size"])


@app.command("show")
def show_dataset(dataset: DatasetId, json: Json = False) -> None:
    """Show a dataset and what inspection found in it."""
    with connected() as client:
        found = client.dataset(dataset)
        print_json(found) if json else _print_dataset(found)


@app.command("delete")
def delete_dataset(dataset: DatasetId) -> None:
    """Delete a dataset that no job uses."""
    with connected() as client:
        client.delete(dataset)
    say(f"{dataset} is deleted")


def _print_dataset(dataset: "Dataset") -> None:
    error, rows = dataset["error"], dataset["rows"]
    show(
        facts(
            [
                ("dataset", dataset["id"]),
                ("name", dataset["name"]),
                ("state", dataset["state"]),
                ("error", f"{error['detail']} ({error['code']})" if error else None),
                ("size", in_bytes(dataset["bytes"])),
                ("sha256", dataset["sha256"]),
                ("format", dataset["format"]),
                ("rows", None if rows is None else f"{rows:,}"),
                ("fields", "; ".join(map(shape, dataset["fields"] or []))),
                ("notes", "\n".join(dataset["notes"])),
            ]
        )
    )
