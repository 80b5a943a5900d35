rule score_items:
    """Score one attribute's items with one run of one model."""
    input:
        item_table="results/{study}/items/{attribute}.parquet",
        heldout=get_heldout,
        model="resources/models/{model}",
        adapter=get_adapter,
    output:
        "results/{study}/{model}/{run}/predictions/{attribute}.parquet",
    log:
        "results/{study}/{model}/{run}/predictions/{attribute}.log",
    benchmark:
        "results/{study}/{model}/{run}/predictions/{attribute}.benchmark.tsv"
    conda:
        "../../envs/model.yaml"
    # Several jobs of one thread overlap their starts: faster than one job of several threads.
    threads: 1
    resources:
        mem_mb=24000,
        runtime=480,
        gpu=get_gpus,
    params:
        model=get_model_settings,
        evaluation=get_evaluation,
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        code=fingerprint("scoring.score", "statistics.outcomes"),
        partial="results/{study}/{model}/{run}/predictions/.partial-{attribute}",
    script:
        "../scripts/score_items.py"


rule predictions:
    """Every prediction of the study."""
    input:
        expand(
            "results/{study}/{model}/{run}/predictions/{attribute}.parquet",
            study=config["study"],
            model=get_models(),
            run=["base", *get_aligned_runs()],
            attribute=config["evaluation"]["attributes"],
        ),
