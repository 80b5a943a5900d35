"""Bias scores of each attribute and context, before and after."""

from spillover.core.files import read_table
from spillover.core.logs import log_to
from spillover.report import figures

with log_to(snakemake.log[0]):
    figure = figures.bias_scores(
        read_table(snakemake.input[0]),
        snakemake.wildcards.alignment,
        snakemake.params.target,
        snakemake.params.control,
    )
    figures.save(figure, snakemake.output)
