"""Fetch a model as safetensors with its tokenizer, and check that the study can use it."""

import json
from pathlib import Path

from spillover import elsewhere, study
from spillover.core import downloads
from spillover.core.files import folder_sha256, replacing
from spillover.core.logs import log_to
from spillover.models.check import check_checkpoint, check_folder
from spillover.models.load import MODEL_FILES

with log_to(snakemake.log[0]), replacing(snakemake.output[0]) as folder:
    config, name = snakemake.config, snakemake.wildcards.model
    key, source = elsewhere.fetched(config, name)
    # Forms and template change no file, so they stay out of params: training and scoring, which
    # depend on them, look again.
    forms, chat_template = study.forms(config), study.chat_template(config, name)
    with downloads.told_of(key, source, folder):
        record = downloads.fetch_model(source, folder)
        is_checkpoint = name not in config["models"]
        check = check_checkpoint if is_checkpoint else check_folder
        # A folder of the user's first: what lies there and is not used may say what is wrong.
        for place in dict.fromkeys([Path(source.get("path", folder)), folder]):
            check(place, forms, chat_template)
    kept = folder / "source.json"
    kept.unlink(missing_ok=True)  # it may be a link to a file of the user's
    record["content"] = folder_sha256(folder, MODEL_FILES)
    kept.write_text(json.dumps(record, indent=2) + "\n")
