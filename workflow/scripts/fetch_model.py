"""Fetch a model as safetensors with its tokenizer, and check that the study can use it."""

import json
from pathlib import Path

from spillover import downloads, models
from spillover.files import replacing
from spillover.logs import log_to

with log_to(snakemake.log[0]), replacing(snakemake.output[0]) as folder:
    source = snakemake.params.source
    record = downloads.fetch_model(source, folder, Path(snakemake.params.partial))
    models.check_folder(folder)
    (folder / "source.json").write_text(json.dumps(record, indent=2) + "\n")
