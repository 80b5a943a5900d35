"""Prompts of other attributes, with their answers, on which training keeps to the base."""

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data import other_prompts

with log_to(snakemake.log[0]):
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input), ignore_index=True)
    prompts = other_prompts.build(items, params.split, params.exclude_groups, params.max_items)
    write_table(prompts, snakemake.output[0])
