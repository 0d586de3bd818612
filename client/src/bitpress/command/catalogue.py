"""`bitpress targets`, `techniques` and `metrics`: what there is to choose from."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitpress.command.output import Json, in_bytes, print_json, print_table
from bitpress.command.session import connected

if TYPE_CHECKING:
    from bitpress.types import CatalogueEntry


def list_targets(json: Json = False) -> None:
    """List the machine classes that jobs can name."""
    with connected() as client:
        targets = client.targets()
        if json:
            print_json(targets)
            return
        rows = []
        for target in targets:
            machine = target["fingerprint"]
            rows.append(
                [
                    target["id"],
                    "yes" if target["alive"] else "no",
                    str(machine.get("model_name") or machine.get("architecture") or target["summary"] or ""),
                    str(machine.get("cores") or ""),
                    in_bytes(machine.get("memory_bytes")),
                    ", ".join(target["features"]),
                ]
            )
        columns = ["target", "worker alive", "processor", "cores", "memory", "features"]
        print_table(columns, rows, right=["cores", "memory"])


def list_techniques(
    name: Annotated[str | None, typer.Argument(help="One technique, with its options.")] = None,
    json: Json = False,
) -> None:
    """List what can be done to a model, and with which options."""
    with connected() as client:
        techniques = client.techniques()
    if name is None:
        _print_entries(techniques, json)
        return
    found = next((entry for entry in techniques if entry["id"] == name), None)
    if found is None:
        known = ", ".join(entry["id"] for entry in techniques)
        raise typer.BadParameter(f"there is no technique {name!r}; there are {known}", param_hint="NAME")
    if json:
        print_json(found)
    else:
        options = list(_options(found["schema"], found["schema"]))
        print_table(["option", "default", "what it says"], options)


def list_metrics(json: Json = False) -> None:
    """List what can be measured of a model's outputs."""
    with connected() as client:
        _print_entries(client.metrics(), json)


def _print_entries(entries: "list[CatalogueEntry]", json: bool) -> None:
    if json:
        print_json(entries)
    else:
        print_table(["name", "what it is"], [[entry["id"], entry["summary"]] for entry in entries])


def _options(schema: dict[str, Any], root: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """Options by their dotted names, as `--option` takes them."""
    import json

    rows = []
    for name, described in schema.get("properties", {}).items():
        if name == "technique":
            continue
        reference = described.get("$ref", "").rpartition("/")[2]
        inner = root.get("$defs", {}).get(reference)
        if inner is not None:
            rows.extend(_options(inner, root, f"{prefix}{name}."))
            continue
        default = json.dumps(described["default"]) if "default" in described else "required"
        rows.append([prefix + name, default, " ".join(described.get("description", "").split())])
    return rows
