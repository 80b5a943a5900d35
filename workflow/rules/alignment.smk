rule train_dpo:
    """Align a model on preference pairs: LoRA by DPO on the quantised base."""
    input:
        pairs="results/{study}/pairs/{alignment}/train.parquet",
        model="resources/models/{model}",
    output:
        weights="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_model.safetensors",
        config="results/{study}/{model}/{alignment}/seed{seed}/adapter/adapter_config.json",
        card="results/{study}/{model}/{alignment}/seed{seed}/adapter/README.md",
        training="results/{study}/{model}/{alignment}/seed{seed}/training.tsv",
    log:
        "results/{study}/{model}/{alignment}/seed{seed}/train_dpo.log",
    benchmark:
        "results/{study}/{model}/{alignment}/seed{seed}/train_dpo.benchmark.tsv"
    # What a wrong setting of training would waste is least if training comes first.
    priority: 1
    conda:
        "../../envs/model.yaml"
    threads: 8
    resources:
        mem_mb=32000,
        runtime=1440,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        objective=lookup("alignments/{alignment}/objective", within=config),
        lora=lookup("alignments/{alignment}/lora", within=config),
        training=lookup("alignments/{alignment}/training", within=config),
        # Undeclared on purpose: Snakemake removes what is declared before each attempt.
        checkpoints="results/{study}/{model}/{alignment}/.checkpoints-seed{seed}",
        code=fingerprint("alignment"),
    script:
        "../scripts/train_dpo.py"


rule diagnose_alignment:
    """What training did to the answers to held-out items: ranking, divergence, letters."""
    input:
        item_tables=get_target_items,
        heldout="results/{study}/pairs/{alignment}/heldout.parquet",
        model="resources/models/{model}",
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
    threads: 2
    resources:
        mem_mb=24000,
        runtime=60,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        pairs=lookup("alignments/{alignment}/pairs/format", within=config),
        max_length=lookup("alignments/{alignment}/training/max_length", within=config),
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        code=fingerprint("diagnostics", "pairs"),
    script:
        "../scripts/diagnose_alignment.py"


rule adapters:
    """Every adapter of the study, with its diagnostics."""
    input:
        expand(
            "results/{study}/{model}/{run}/{file}",
            study=config["study"],
            model=get_models(),
            run=get_aligned_runs(),
            file=["adapter/adapter_model.safetensors", "training.tsv", "diagnostics.tsv"],
        ),
