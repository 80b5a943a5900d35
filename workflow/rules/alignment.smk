rule answer_prompts:
    """The base's own answers to prompts of other attributes, for training to go on with them."""
    input:
        item_tables=get_other_items("replay"),
        model=get_weights,
    output:
        "results/{study}/{model}/{alignment}/replay.parquet",
    log:
        "results/{study}/{model}/{alignment}/answer_prompts.log",
    benchmark:
        "results/{study}/{model}/{alignment}/answer_prompts.benchmark.tsv"
    wildcard_constraints:
        alignment=only(get_with("replay")),
    # Training waits for it.
    priority: 1
    conda:
        "../../envs/model.yaml"
    threads: get_threads(len(get_models()) * len(get_with("replay")), most=4)
    resources:
        mem_mb=24000,
        runtime=60,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        exclude_groups=lookup("alignments/{alignment}/exclude_groups", within=config),
        split=lookup("alignments/{alignment}/split", within=config),
        replay=get_replay_settings,
        code=fingerprint("scoring.answering", "models.load", "data.other_prompts"),
    script:
        "../scripts/answer_prompts.py"


rule train_dpo:
    """Align a model on preference pairs: LoRA by DPO on the quantised base."""
    input:
        pairs="results/{study}/pairs/{alignment}/train.parquet",
        anchor=get_anchor,
        replay=get_replay,
        model=get_weights,
    output:
        weights="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_model.safetensors",
        config="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_config.json",
        card="results/{study}/{model}/{alignment}/seed{seed}/adapter/README.md",
        training="results/{study}/{model}/{alignment}/seed{seed}/training.tsv",
        # Tokens a second: of the machine, not of the study, and nothing's input.
        speed="results/{study}/{model}/{alignment}/seed{seed}/training_speed.tsv",
        on_the_way=expand(
            "results/{{study}}/{{model}}/{{alignment}}/seed{{seed}}@{share}/adapter/{file}",
            share=get_shares(),
            file=["adapter_model.safetensors", "adapter_config.json", "README.md"],
        ),
    log:
        "results/{study}/{model}/{alignment}/seed{seed}/train_dpo.log",
    benchmark:
        "results/{study}/{model}/{alignment}/seed{seed}/train_dpo.benchmark.tsv"
    wildcard_constraints:
        alignment=only(get_trained()),
    # What a wrong setting of training would waste is least if training comes first.
    priority: 1
    conda:
        "../../envs/model.yaml"
    threads: get_threads(len(get_models()) * len(get_runs_of(get_trained())), most=8)
    resources:
        mem_mb=32000,
        runtime=1440,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        objective=lookup("alignments/{alignment}/objective", within=config),
        lora=lookup("alignments/{alignment}/lora", within=config),
        training=lookup("alignments/{alignment}/training", within=config),
        data=get_pairs_settings,
        # Undeclared on purpose: Snakemake removes what is declared before each attempt.
        checkpoints="results/{study}/{model}/{alignment}/.checkpoints-seed{seed}",
        finished="results/{study}/{model}/{alignment}/.finished-seed{seed}",
        code=fingerprint("alignment.train", "data.other_prompts"),
    script:
        "../scripts/train_dpo.py"


rule fetch_adapter:
    """Take an adapter that was trained elsewhere, checked against its base."""
    input:
        model="resources/models/{model}",
        files=get_adapter_files,
    output:
        weights="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_model.safetensors",
        config="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_config.json",
        source="results/{study}/{model}/{alignment}/seed{seed}/adapter/source.json",
    log:
        "results/{study}/{model}/{alignment}/seed{seed}/fetch_adapter.log",
    wildcard_constraints:
        alignment=only(get_given("adapter")),
    localrule: True
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        source=get_adapter_source,
    script:
        "../scripts/fetch_adapter.py"


rule derive_adapter:
    """Make an adapter of others without training: cut to fewer ranks, or merged."""
    input:
        adapters=get_source_adapters,
        model="resources/models/{model}",
    output:
        weights="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_model.safetensors",
        config="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_config.json",
        card="results/{study}/{model}/{alignment}/seed{seed}/adapter/README.md",
    log:
        "results/{study}/{model}/{alignment}/seed{seed}/derive_adapter.log",
    wildcard_constraints:
        alignment=only(get_derived()),
    localrule: True
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        derive=get_derivation,
        code=fingerprint("alignment.derive", "alignment.derived_card"),
    script:
        "../scripts/derive_adapter.py"


rule diagnose_alignment:
    """What training did to the answers to held-out items: ranking, divergence, letters."""
    input:
        item_tables=get_target_items,
        heldout="results/{study}/pairs/{alignment}/heldout.parquet",
        model=get_weights,
        adapter=multiext(
            "results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_",
            "model.safetensors",
            "config.json",
        ),
    output:
        "results/{study}/{model}/{alignment}/seed{seed}/diagnostics.tsv",
    log:
        "results/{study}/{model}/{alignment}/seed{seed}/diagnostics.log",
    benchmark:
        "results/{study}/{model}/{alignment}/seed{seed}/diagnostics.benchmark.tsv"
    conda:
        "../../envs/model.yaml"
    threads: get_threads(len(get_models()) * len(get_aligned_runs()), most=2)
    resources:
        mem_mb=24000,
        runtime=60,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        pairs=get_pairs_format,
        max_length=get_max_length,
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        code=fingerprint("alignment.diagnostics", "alignment.encoding", "data.pairs"),
    script:
        "../scripts/diagnose_alignment.py"


rule adapters:
    """Every adapter of the study, with its diagnostics."""
    input:
        expand(
            "results/{study}/{model}/{file}",
            study=config["study"],
            model=get_models(),
            file=get_adapter_results(),
        ),
    localrule: True
