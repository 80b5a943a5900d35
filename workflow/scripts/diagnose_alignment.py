"""What training did to the answers to held-out items: ranking, divergence, letters."""

from pathlib import Path

import pandas as pd
import torch
from spillover import alignment, bbq, diagnostics, models
from spillover import pairs as preference
from spillover.files import read_table, write_table
from spillover.logs import log_to

with log_to(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = bbq.evaluated_items(items, [read_table(snakemake.input.heldout)], params.blocks)
    tokenizer = models.load_tokenizer(snakemake.input.model)
    pairs = preference.build_pairs(heldout, params.pairs)
    rows = alignment.encode(pairs, tokenizer, params.max_length)
    model = models.load(
        snakemake.input.model,
        **params.model,
        device=snakemake.config["machine"]["device"],
        adapter=Path(snakemake.input.adapter[0]).parent,
    )
    write_table(diagnostics.diagnose(model, tokenizer, rows), snakemake.output[0])
