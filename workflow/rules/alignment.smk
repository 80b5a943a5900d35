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


rule adapters:
    """Every adapter of the study."""
    input:
        expand(
            "results/{study}/{model}/{run}/adapter/adapter_model.safetensors",
            study=config["study"],
            model=get_models(),
            run=get_aligned_runs(),
        ),
