"""Take an adapter that was trained elsewhere, checked against its base."""

import json
from pathlib import Path

from spillover.core import downloads
from spillover.core.files import replacing
from spillover.core.logs import log_to
from spillover.models.adapters import check_adapter

with log_to(snakemake.log[0]), replacing(Path(snakemake.output.weights).parent) as folder:
    wildcards, source = snakemake.wildcards, snakemake.params.source
    key = f"alignments.{wildcards.alignment}.adapter.{wildcards.model}"
    with downloads.told_of(key, source, folder):
        record = downloads.fetch_adapter(source, folder)
        check_adapter(folder, snakemake.input.model, source.get("base"))
    kept = folder / "source.json"
    kept.unlink(missing_ok=True)  # it may be a link to a file of the user's
    kept.write_text(json.dumps(record, indent=2) + "\n")
