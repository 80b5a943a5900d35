"""Every alignment's effect on every attribute, corrected as one family."""

from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics.matrix import matrix

with log_to(snakemake.log[0]):
    params, tables = snakemake.params, snakemake.input
    contrasts = read_table(tables.contrasts) if params.controls else None
    table = matrix(
        read_table(tables.spillover),
        contrasts,
        params.targets,
        params.controls,
        params.statistics,
    )
    write_table(table, snakemake.output[0])
