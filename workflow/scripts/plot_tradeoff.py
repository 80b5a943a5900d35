"""What alignment costs against what it changes, run by run."""

from spillover.core.files import read_table
from spillover.core.logs import log_to
from spillover.report import figures, tradeoffs

with log_to(snakemake.log[0]):
    figure = tradeoffs.tradeoff(
        read_table(snakemake.input.runs),
        read_table(snakemake.input.tradeoff),
        snakemake.wildcards.model,
        snakemake.params.controls,
        snakemake.params.alpha,
    )
    figures.save(figure, snakemake.output)
