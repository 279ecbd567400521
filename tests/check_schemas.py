"""Every schema is a valid one, and each of its keys says what it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

for path in sorted((Path(__file__).parent.parent / "schemas").glob("*.json")):
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    if "description" not in schema:
        sys.exit(f"{path.name}: no description")
