rule score_items:
    """Score the items of every attribute with one run of one model.

    One job a run, so that a model is loaded once. Tables that were made already, of the same
    model, items and settings, are kept: what is new is scored by itself.
    """
    input:
        item_tables=get_items,
        heldout=get_heldout,
        model=get_run_weights,
        adapter=get_adapter,
        base=get_base,
    output:
        # Not update(): of a job that failed Snakemake takes the tables that it was to replace for
        # made anew (docs/upstream.md).
        expand(
            "results/{{study}}/{{model}}/{{run}}/predictions/{attribute}.parquet",
            attribute=config["evaluation"]["attributes"],
        ),
    log:
        "results/{study}/{model}/{run}/predictions/score_items.log",
    benchmark:
        "results/{study}/{model}/{run}/predictions/score_items.benchmark.tsv"
    conda:
        "../../envs/model.yaml"
    threads: get_threads(len(get_models()) * len(get_all_runs()), most=4)
    resources:
        mem_mb=24000,
        runtime=480,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        strength=get_strength,
        evaluation=get_evaluation,
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        code=fingerprint("scoring.score", "models.load", "statistics.outcomes", "data.samples"),
        # Undeclared on purpose, as checkpoints of training are.
        partial="results/{study}/{model}/{run}/.partial-predictions",
        kept="results/{study}/{model}/{run}/predictions/.kept",
    script:
        "../scripts/score_items.py"


rule score_companions:
    """Score the items of a companion set with one run of one model."""
    input:
        companions="results/{study}/companions/{set}.parquet",
        model=get_run_weights,
        adapter=get_adapter,
        base=get_base,
    output:
        "results/{study}/{model}/{run}/companions/{set}.parquet",
    log:
        "results/{study}/{model}/{run}/companions/{set}.log",
    benchmark:
        "results/{study}/{model}/{run}/companions/{set}.benchmark.tsv"
    conda:
        "../../envs/model.yaml"
    threads: get_threads(len(get_models()) * len(get_all_runs()), most=4)
    resources:
        mem_mb=24000,
        runtime=240,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        strength=get_strength,
        chat=lambda wildcards: get_set(wildcards.set).chat,
        code=fingerprint("scoring.companions", "models.load"),
        # Undeclared on purpose, as checkpoints of training are.
        partial="results/{study}/{model}/{run}/companions/.partial-{set}",
        kept="results/{study}/{model}/{run}/companions/.kept",
    script:
        "../scripts/score_companions.py"


rule predictions:
    """Every prediction of the study."""
    input:
        expand(
            "results/{study}/{model}/{run}/predictions/{attribute}.parquet",
            study=config["study"],
            model=get_models(),
            run=get_all_runs(),
            attribute=config["evaluation"]["attributes"],
        ),
    localrule: True


rule companions:
    """Every answer of the study to its companion sets."""
    input:
        get_companion_answers,
    localrule: True
