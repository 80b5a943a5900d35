"""Items of the targeted attributes that an alignment made elsewhere was not trained on."""

import pandas as pd
from spillover.core.errors import InputError
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data import samples
from spillover.data.item_ids import read_item_ids

with log_to(snakemake.log[0]):
    tables = [read_table(path) for path in snakemake.input.item_tables]
    path = snakemake.input.trained_on
    trained_on = read_item_ids(path) if path else []
    # Without a target there is nothing to hold out: every attribute is untargeted.
    heldout = pd.DataFrame({"item_id": pd.Series(dtype=str)})
    if tables:
        items = pd.concat(tables, ignore_index=True)
        try:
            heldout = samples.heldout_elsewhere(items, trained_on, snakemake.params.exclude_groups)
        except InputError as error:
            key = f"trained_on: {path}" if path else "exclude_groups"
            raise InputError(
                f"alignments.{snakemake.wildcards.alignment}.{key}: {error}"
            ) from error
    write_table(heldout[["item_id"]], snakemake.output[0])
