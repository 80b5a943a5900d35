"""Arms by what they gain on the target and what they do to their worst other attribute."""

from spillover.core.files import read_table
from spillover.core.logs import log_to
from spillover.report import figures, rankings

with log_to(snakemake.log[0]):
    figure = rankings.ranking(
        read_table(snakemake.input[0]), snakemake.wildcards.model, snakemake.params.alpha
    )
    figures.save(figure, snakemake.output)
