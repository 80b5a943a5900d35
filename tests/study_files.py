"""The studies that come along, as the workflow reads them."""

import copy
import json
from pathlib import Path

import yaml
from snakemake.utils import validate
from spillover import derived

ROOT = Path(__file__).parents[1]
SCHEMA_FILE = ROOT / "workflow/schemas/config.schema.yaml"
STUDIES = ["config.yaml", *(f"studies/{path.name}" for path in ROOT.glob("studies/*.yaml"))]


def read(name: str) -> dict:
    """A study, without the parts that an anchor lets two alignments share."""
    return json.loads(json.dumps(yaml.safe_load((ROOT / name).read_text())))


def filled(config: dict) -> dict:
    """A configuration with the schema's defaults, and what derived alignments inherit."""
    complete = copy.deepcopy(config)
    validate(complete, str(SCHEMA_FILE))
    derived.inherit(complete)
    return complete
