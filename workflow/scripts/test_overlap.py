"""How far shared words go with spillover."""

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics.overlap import correlations, overlaps

with log_to(snakemake.log[0]):
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    shared = overlaps(items, {name: params.targets[name] for name in params.shown})
    table = correlations(shared, read_table(snakemake.input.matrix), params.statistics)
    write_table(shared, snakemake.output.vocabulary)
    write_table(table, snakemake.output.overlap)
