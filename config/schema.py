"""The JSON Schema of the site files, made from the models.

``python -m config.schema`` writes ``config/schema.json``; a test keeps the shipped file current.
An editor checks a file against its own kind, e.g. ``schema.json#/$defs/InstrumentFile``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from config.command_keys import KeysFile
from config.link import LinkFile
from config.model import (
    AlarmStatesFile,
    ControlStatesFile,
    DatabaseFile,
    InstrumentFile,
    PersonalityFile,
    SystemConfig,
    SystemStatesFile,
    TemplateFile,
)

SCHEMA_FILE: Final = Path(__file__).with_name("schema.json")

# What each kind of file is called in a site folder, and its model.
FILE_KINDS: Final[tuple[tuple[str, type[BaseModel]], ...]] = (
    ("<name>-Config.json", SystemConfig),
    ("<instrument>.json", InstrumentFile),
    ("templates/<maker>-<model>.json", TemplateFile),
    ("<name>_Personality.json", PersonalityFile),
    ("<name>_AlarmStates.json", AlarmStatesFile),
    ("<name>_SystemStates.json", SystemStatesFile),
    ("<name>_ControlStates.json", ControlStatesFile),
    ("<name>_Database.json", DatabaseFile),
    ("link.json", LinkFile),
    ("keys.json", KeysFile),
)


def site_schema() -> dict[str, Any]:
    """One schema with a definition for each kind of file; a valid file fits at least one."""
    _, definitions = models_json_schema(
        [(model, "validation") for _, model in FILE_KINDS],
        title="Gatepost site files",
        description="Files of a site folder; see docs/configuration.md.",
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **definitions,
        "anyOf": [{"$ref": f"#/$defs/{model.__name__}"} for _, model in FILE_KINDS],
    }


def schema_text() -> str:
    """The schema as it stands in the shipped file: sorted keys, two spaces, final newline."""
    return json.dumps(site_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the shipped file; returns the exit status."""
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
