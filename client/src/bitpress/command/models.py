"""`bitpress models`"""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitpress.command import uploads
from bitpress.command.options import Limit, UploadState
from bitpress.command.output import Json, facts, in_bytes, moment, print_json, print_table, say, shape, show
from bitpress.command.progress import bytes_bar
from bitpress.command.session import connected, id_of

if TYPE_CHECKING:
    from bitpress.types import Model

app = typer.Typer(no_args_is_help=True, help="Upload models, look at them, delete them.", rich_markup_mode=None)

ModelId = Annotated[str, typer.Argument(metavar="MODEL", callback=id_of("mdl"), help="An id: mdl_…")]


@app.command("upload")
def upload_model(
    file: Annotated[str, typer.Argument(help="A model file, a .zip or .tar of its file set, or s3://bucket/key.")],
    name: Annotated[str | None, typer.Option(help="A name; else the file's.")] = None,
    json: Json = False,
) -> None:
    """Upload a model and wait until it has been inspected."""
    with connected() as client:
        model = uploads.upload_model(client, file, name)
        print_json(model) if json else _print_model(model)


@app.command("list")
def list_models(
    state: UploadState = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """List models, newest first."""
    with connected() as client:
        filters = {} if state is None else {"state": state}
        models = list(islice(client.models(**filters), limit))
        if json:
            print_json(models)
            return
        rows = [[m["id"], m["name"], m["state"], in_bytes(m["bytes"]), moment(m["created_at"])] for m in models]
        print_table(["id", "name", "state", "size", "created"], rows, right=["size"])


@app.command("show")
def show_model(model: ModelId, json: Json = False) -> None:
    """Show a model and what inspection found in it."""
    with connected() as client:
        found = client.model(model)
        print_json(found) if json else _print_model(found)


@app.command("download")
def download_model(
    model: ModelId,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file or a folder.")] = Path(),
) -> None:
    """Download a model as it was uploaded."""
    with connected() as client, bytes_bar(f"downloading {model}") as told:
        path = client.download(model, output, on_progress=told)
    typer.echo(path)


@app.command("delete")
def delete_model(model: ModelId) -> None:
    """Delete a model that no job uses."""
    with connected() as client:
        client.delete(model)
    say(f"{model} is deleted")


def _print_model(model: "Model") -> None:
    error, operators = model["error"], model["operators"] or {}
    parameters = model["parameters"]
    show(
        facts(
            [
                ("model", model["id"]),
                ("name", model["name"]),
                ("state", model["state"]),
                ("error", f"{error['detail']} ({error['code']})" if error else None),
                ("size", in_bytes(model["bytes"])),
                ("sha256", model["sha256"]),
                (
                    "format",
                    f"{model['format']}, opset {model['opset']}" if model["opset"] else model["format"],
                ),
                ("parameters", None if parameters is None else f"{parameters:,}"),
                ("inputs", "; ".join(map(shape, model["inputs"] or []))),
                ("outputs", "; ".join(map(shape, model["outputs"] or []))),
                ("operators", ", ".join(f"{name} {count}" for name, count in sorted(operators.items()))),
                ("notes", "\n".join(model["notes"])),
            ]
        )
    )
