"""Fetch a model as safetensors with its tokenizer, and check that the study can use it."""

import json

from spillover.core import downloads
from spillover.core.files import folder_sha256, replacing
from spillover.core.logs import log_to
from spillover.models.check import check_folder
from spillover.models.load import MODEL_FILES

with log_to(snakemake.log[0]), replacing(snakemake.output[0]) as folder:
    record = downloads.fetch_model(snakemake.params.source, folder)
    check_folder(folder)
    source = folder / "source.json"
    source.unlink(missing_ok=True)  # it may be a link to a file of the user's
    record["content"] = folder_sha256(folder, MODEL_FILES)
    source.write_text(json.dumps(record, indent=2) + "\n")
