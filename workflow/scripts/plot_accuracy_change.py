"""Change of accuracy of each attribute and context, the control's beside it."""

from spillover.core.files import read_table
from spillover.core.logs import log_to
from spillover.report import figures

with log_to(snakemake.log[0]):
    control = snakemake.params.control
    figure = figures.accuracy_change(
        read_table(snakemake.input.spillover),
        read_table(snakemake.input.aggregate),
        snakemake.wildcards.alignment,
        snakemake.params.alpha,
        read_table(snakemake.input.contrasts) if control else None,
        control,
    )
    figures.save(figure, snakemake.output)
