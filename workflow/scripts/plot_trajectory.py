"""Change of accuracy along training, items, strength or rank."""

from spillover.core.files import read_table
from spillover.core.logs import log_to
from spillover.report import figures, trajectories

with log_to(snakemake.log[0]):
    wildcards = snakemake.wildcards
    figure = trajectories.trajectory(
        read_table(snakemake.input[0]),
        wildcards.model,
        wildcards.along,
        wildcards.alignment,
        snakemake.params.alpha,
    )
    figures.save(figure, snakemake.output)
