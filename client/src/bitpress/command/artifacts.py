"""`bitpress artifacts`"""

from pathlib import Path
from typing import Annotated

import typer

from bitpress.command.output import Json, facts, in_bytes, moment, print_json, say, show
from bitpress.command.progress import bytes_bar
from bitpress.command.session import connected, id_of

app = typer.Typer(no_args_is_help=True, help="Download what jobs made.", rich_markup_mode=None)

ArtifactId = Annotated[str, typer.Argument(metavar="ARTIFACT", callback=id_of("art"), help="An id: art_…")]


@app.command("show")
def show_artifact(artifact: ArtifactId, json: Json = False) -> None:
    """Show what is known of an artifact."""
    with connected() as client:
        found = client.artifact(artifact)
        if json:
            print_json(found)
            return
        show(
            facts(
                [
                    ("artifact", found["id"]),
                    ("job", found["job"]),
                    ("file", found["file_name"]),
                    ("size", in_bytes(found["bytes"])),
                    ("sha256", found["sha256"]),
                    ("created", moment(found["created_at"])),
                ]
            )
        )


@app.command("download")
def download_artifact(
    artifact: ArtifactId,
    output: Annotated[Path, typer.Option("--output", "-o", help="A file or a folder.")] = Path(),
) -> None:
    """Download an artifact and check its SHA-256; prints the path."""
    with connected() as client, bytes_bar(f"downloading {artifact}") as told:
        path = client.download(artifact, output, on_progress=told)
    typer.echo(path)


@app.command("manifest")
def print_manifest(artifact: ArtifactId) -> None:
    """Print an artifact's manifest as JSON: data, recipe, versions, measurements, and how to run it."""
    with connected() as client:
        print_json(client.manifest(artifact))


@app.command("delete")
def delete_artifact(artifact: ArtifactId) -> None:
    """Delete an artifact."""
    with connected() as client:
        client.delete(artifact)
    say(f"{artifact} is deleted")
