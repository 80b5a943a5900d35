"""What training did to the answers to held-out items: ranking, divergence, letters."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.gpus import take_gpu
from spillover.core.logs import log_to
from spillover.data import pairs as preference
from spillover.data import samples

with log_to(snakemake.log[0]):
    take_gpu(snakemake.resources.get("gpu", 0))
    # Only here: bitsandbytes looks at the GPUs when it is imported.
    import torch
    from spillover.alignment import diagnostics
    from spillover.alignment.encoding import encode
    from spillover.models.load import load_model, load_tokenizer
    from spillover.models.tokens import letter_tokens

    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = samples.evaluated_items(items, [read_table(snakemake.input.heldout)], params.blocks)
    settings = dict(params.model)
    tokenizer = load_tokenizer(snakemake.input.model, settings.pop("chat_template", None))
    pairs = preference.build_pairs(heldout, params.pairs)
    rows = encode(pairs, tokenizer, params.max_length)
    model = load_model(
        snakemake.input.model,
        **settings,
        device=snakemake.config["machine"]["device"],
        adapter=Path(snakemake.input.adapter[0]).parent,
    )
    letters = letter_tokens(tokenizer) if params.pairs != "cloze" else None
    write_table(diagnostics.diagnose(model, rows, letters), snakemake.output[0])
