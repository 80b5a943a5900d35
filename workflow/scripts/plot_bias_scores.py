"""Bias scores of each attribute and context, before and after."""

from spillover import figures
from spillover.files import read_table
from spillover.logs import log_to

with log_to(snakemake.log[0]):
    figure = figures.bias_scores(
        read_table(snakemake.input[0]), snakemake.wildcards.alignment, snakemake.params.target
    )
    figures.save(figure, snakemake.output)
