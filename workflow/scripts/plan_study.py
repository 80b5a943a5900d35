"""Say before anything is spent what a study will take: jobs, tokens, GPU memory and hours."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, replacing, write_table
from spillover.core.logs import log_to

with log_to(snakemake.log[0]):
    # Only here: what bitsandbytes says when it is imported belongs into the log.
    from spillover import study_plan

    tables = snakemake.input
    training, jobs, text = study_plan.plan(
        snakemake.params.study,
        {Path(folder).name: folder for folder in tables.models},
        items=pd.concat(map(read_table, tables.item_tables), ignore_index=True),
        pairs={Path(path).parent.name: read_table(path) for path in tables.pairs},
        heldout={Path(path).parent.name: read_table(path) for path in tables.heldout},
        sets={Path(path).stem: read_table(path) for path in tables.companions},
        machine=snakemake.params.machine,
    )
    write_table(training, snakemake.output.training)
    write_table(jobs, snakemake.output.jobs)
    with replacing(snakemake.output.text) as path:
        path.write_text(text)
