"""Fetch a model's configuration and tokenizer without its weights, for the plan."""

from spillover.core import downloads
from spillover.core.files import replacing
from spillover.core.logs import log_to

with log_to(snakemake.log[0]), replacing(snakemake.output[0]) as folder:
    downloads.fetch_model(snakemake.params.source, folder, weights=False)
