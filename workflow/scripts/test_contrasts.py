"""Alignments against their controls, and models against each other, on the same items."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.statistics import runs
from spillover.statistics.contrasts import COLUMNS, contrast

with log_to(snakemake.log[0]):
    params = snakemake.params
    settings, files = params.statistics, params.runs
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    tables = []
    for alignment, control in params.controls.items():
        asked = asked_items(items, heldout_for(alignment, heldout), params.blocks)
        for model, files_by_run in files.items():
            of, minus = (
                runs.read_seeds(files_by_run, name, items, asked) for name in (alignment, control)
            )
            base = runs.read_run(files_by_run["base"], items, asked)
            answered = runs.items_of(items, next(iter(of.values())))
            targeted = params.targets[alignment]
            table = contrast(answered, of, minus, settings, base, targeted)
            keys = {"contrast": alignment, "model": model, "of": alignment, "minus": control}
            tables.append(table.assign(**keys))
    asked = asked_items(items, heldout_for("base", heldout), params.blocks)
    for name, models in params.contrasts.items():
        of, minus = (
            runs.read_run(files[models[side]]["base"], items, asked) for side in ("of", "minus")
        )
        table = contrast(runs.items_of(items, of), {0: of}, {0: minus}, settings)
        tables.append(table.assign(contrast=name, model=models["of"], **models))
    write_table(pd.concat(tables, ignore_index=True)[COLUMNS], snakemake.output[0])
