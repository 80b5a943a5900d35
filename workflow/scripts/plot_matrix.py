"""The spillover matrix of a model: alignments against attributes, the change as colour."""

from spillover.core.files import read_table
from spillover.core.logs import log_to
from spillover.report import figures, heatmaps

with log_to(snakemake.log[0]):
    figure = heatmaps.matrix(
        read_table(snakemake.input[0]),
        snakemake.wildcards.model,
        f"delta_{snakemake.wildcards.value}",
        snakemake.params.alpha,
    )
    figures.save(figure, snakemake.output)
