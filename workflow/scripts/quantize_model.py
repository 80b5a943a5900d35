"""Quantise a model once, so that no later job does it again."""

from spillover.core.files import replacing
from spillover.core.logs import log_to
from spillover.models.quantize import quantize

with log_to(snakemake.log[0]), replacing(snakemake.output[0]) as folder:
    quantize(snakemake.input[0], folder, snakemake.params.dtype)
