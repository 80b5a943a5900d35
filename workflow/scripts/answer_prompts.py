"""The base's own answers to prompts of other attributes, for training to go on with them."""

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.gpus import take_gpu
from spillover.core.logs import log_to
from spillover.data import other_prompts

with log_to(snakemake.log[0]):
    take_gpu(snakemake.resources.get("gpu", 0))
    # Only here: bitsandbytes looks at the GPUs when it is imported.
    import torch
    from spillover.models.load import load_model, load_tokenizer
    from spillover.scoring.answering import answer

    torch.set_num_threads(snakemake.threads)
    params, machine = snakemake.params, snakemake.config["machine"]
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    prompts = other_prompts.build(
        items, params.split, params.exclude_groups, params.replay["max_items"]
    )
    settings = dict(params.model)
    tokenizer = load_tokenizer(snakemake.input.model, settings.pop("chat_template", None))
    model = load_model(snakemake.input.model, **settings, device=machine["device"])
    answers = answer(
        prompts, model, tokenizer, params.replay["max_new_tokens"], machine["tokens_per_batch"]
    )
    write_table(answers, snakemake.output[0])
