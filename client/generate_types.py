"""Write src/bitpress/types.py from the service's committed OpenAPI document.

    python client/generate_types.py            writes it anew
    python client/generate_types.py --check    fails when it is not what the document says

Needs datamodel-code-generator and ruff, which the test extra of the service installs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OPENAPI = HERE.parent / "openapi.json"
TYPES = HERE / "src" / "bitpress" / "types.py"

HEADER = '''"""What the service takes and answers, as typed dictionaries.

Written by `client/generate_types.py` from openapi.json; not to be edited by hand. A service newer than
this client may answer with more keys.
"""
'''

# Frames of lists and forms, and FastAPI's own description of an error that this service never sends.
_NOT_WANTED = ("Page", "Body_", "HTTPValidationError", "ValidationError")


def generate(openapi: Path) -> str:
    """Return the text of types.py for an OpenAPI document; the same text for the same document."""
    document = json.loads(openapi.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        schemas, made = Path(folder, "openapi.json"), Path(folder, "types.py")
        schemas.write_text(json.dumps(_only_schemas(document)), encoding="utf-8")
        _run(
            "datamodel_code_generator",
            *("--input", str(schemas), "--input-file-type", "openapi", "--openapi-scopes", "schemas"),
            *(
                "--output",
                str(made),
                "--output-model-type",
                "typing.TypedDict",
                "--target-python-version",
                "3.11",
            ),
            *("--enum-field-as-literal", "all", "--use-standard-collections", "--use-union-operator"),
            *("--use-schema-description", "--use-field-description", "--collapse-root-models"),
            *("--no-use-closed-typed-dict", "--disable-future-imports", "--no-formatters"),
            *("--disable-timestamp", "--custom-file-header", HEADER),
        )
        style = ("--isolated", "--target-version", "py311", "--line-length", "110", str(made))
        made.write_text(_short_docstrings(made.read_text(encoding="utf-8")), encoding="utf-8")
        _run("ruff", "check", "--fix", "--quiet", "--select", "I", *style)
        _run("ruff", "format", "--quiet", *style)
        return made.read_text(encoding="utf-8")


def _only_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """Keep the schemas that users meet, under the names that they use: `Job`, not `JobDocument`."""
    schemas = document["components"]["schemas"]
    for schema in list(schemas.values()):
        _require_discriminators(schema, schemas)
    kept = {name: schema for name, schema in schemas.items() if not name.startswith(_NOT_WANTED)}
    new_names = {name: name.removesuffix("Document") for name in kept}
    clashes = sorted(name for name, new in new_names.items() if name != new and new in kept)
    if clashes:
        raise SystemExit(f"two schemas would have one name: {', '.join(clashes)}")
    return {
        "openapi": document["openapi"],
        "info": document["info"],
        "paths": {},
        "components": {"schemas": {new_names[name]: _renamed(schema, new_names) for name, schema in kept.items()}},
    }


def _require_discriminators(schema: Any, schemas: dict[str, Any]) -> None:
    """Require what tells the members of a union apart, which has a default only for readers of one."""
    if isinstance(schema, dict):
        for reference in schema.get("discriminator", {}).get("mapping", {}).values():
            member = schemas[reference.rpartition("/")[2]]
            name = schema["discriminator"]["propertyName"]
            member["required"] = sorted({*member.get("required", []), name})
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _require_discriminators(inner, schemas)


def _renamed(schema: Any, new_names: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_renamed(inner, new_names) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _renamed(inner, new_names) for key, inner in schema.items()}
    if isinstance(reference := made.get("$ref"), str):
        place, _, name = reference.rpartition("/")
        made["$ref"] = f"{place}/{new_names[name]}"
    return made


def _short_docstrings(source: str) -> str:
    """Put a docstring of one sentence on one line."""

    def shortened(found: re.Match[str]) -> str:
        inside = found[1].strip()
        return found[0] if "\n" in inside else f'"""{inside}"""'

    return re.sub(r'"""(.*?)"""', shortened, source, flags=re.DOTALL)


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{module} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Write the types, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when they differ")
    parser.add_argument("--openapi", type=Path, default=OPENAPI, help="the document (default: %(default)s)")
    parser.add_argument("--types", type=Path, default=TYPES, help="the file (default: %(default)s)")
    given = parser.parse_args()
    text = generate(given.openapi)
    if not given.check:
        given.types.write_text(text, encoding="utf-8")
    elif not given.types.is_file() or given.types.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{given.types} is not what {given.openapi} says: run `python client/generate_types.py`")


if __name__ == "__main__":
    main()
