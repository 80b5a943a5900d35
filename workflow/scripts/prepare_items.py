"""Make one attribute's item table: metadata joined, every fact relied upon asserted."""

from pathlib import Path

from spillover.core.files import write_table
from spillover.core.logs import log_to
from spillover.data import bbq

with log_to(snakemake.log[0]):
    items = bbq.prepare_items(
        Path(snakemake.input.data).read_bytes(),
        Path(snakemake.input.metadata).read_bytes(),
        snakemake.wildcards.attribute,
        snakemake.params.pin,
    )
    write_table(items, snakemake.output[0])
