"""What alignments cost: measures of companion sets, before and after, and net of controls."""

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics.forgetting import correct, forgetting

with log_to(snakemake.log[0]):
    params = snakemake.params
    tables = []
    for name, items_file in zip(params.sets, snakemake.input.companions, strict=True):
        items = read_table(items_file)
        for model, files in params.runs.items():
            base = read_table(files["base"][name])
            read = {
                alignment: {
                    seed: read_table(files[f"{alignment}/seed{seed}"][name])
                    for seed in params.seeds
                }
                for alignment in params.alignments
            }
            for alignment, runs in read.items():
                control = params.controls.get(alignment)
                table = forgetting(
                    name,
                    params.kinds[name],
                    items,
                    base,
                    runs,
                    params.statistics,
                    read.get(control),
                )
                minus = table.pop("against").map({"base": "", "control": control})
                keys = {"model": model, "alignment": alignment, "seeds": len(runs)}
                tables.append(table.assign(**keys, minus=minus))
    table = pd.concat(tables, ignore_index=True)
    write_table(correct(table, params.statistics["correction"]), snakemake.output[0])
