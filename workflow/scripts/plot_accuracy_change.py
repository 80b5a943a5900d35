"""Change of accuracy of each attribute and context, with intervals."""

from spillover.core.files import read_table
from spillover.core.logs import log_to
from spillover.report import figures

with log_to(snakemake.log[0]):
    spillover = read_table(snakemake.input[0])
    spillover = spillover[spillover["alignment"] == snakemake.wildcards.alignment]
    figure = figures.accuracy_change(spillover, snakemake.params.alpha)
    figures.save(figure, snakemake.output)
