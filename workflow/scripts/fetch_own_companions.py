"""Fetch a companion set of the study's own, from the hub or a file, as it is."""

from spillover.core.files import write_table
from spillover.core.logs import log_to
from spillover.data import own_companions

with log_to(snakemake.log[0]):
    key = f"companions.own.{snakemake.wildcards.set}"
    write_table(own_companions.fetch(key, snakemake.params.own), snakemake.output[0])
