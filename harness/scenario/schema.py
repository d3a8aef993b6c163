"""The JSON Schema of scenario files, for editors; made from the tables that the parser reads by, so the two agree.

`python -m cgrace.harness.scenario.schema` writes scenarios/scenario.schema.json anew. The schema knows the form; that names
exist and orders can be met is for the parser alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cgrace.harness.scenario.format import FILE

SCHEMA_NAME = "scenario.schema.json"


def schema() -> dict[str, Any]:
    """The schema, JSON Schema draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cgrace scenario",
        "description": "How to write one: README.md beside this file.",
        **FILE.schema(),
    }


def schema_text() -> str:
    """The schema as it is stored."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def write(folder: Path) -> Path:
    """Write the schema into the folder of the scenarios."""
    path = folder / SCHEMA_NAME
    path.write_text(schema_text(), encoding="utf-8")
    return path


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[2] / "scenarios")
