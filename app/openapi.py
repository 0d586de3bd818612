"""`python -m app.openapi`: print the OpenAPI document that the repository keeps."""

import json
import sys

from app.main import create_app


def document() -> str:
    """The document as committed: sorted, indented, with a final newline."""
    return json.dumps(create_app().openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
