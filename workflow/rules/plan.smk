rule fetch_model_config:
    """Fetch a model's configuration and tokenizer without its weights, for the plan."""
    output:
        directory("resources/model_configs/{model}"),
    log:
        "resources/model_configs/{model}.log",
    localrule: True
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        source=lookup("models/{model}/source", within=config),
    script:
        "../scripts/fetch_model_config.py"


rule plan_study:
    """Say before anything is spent what a study will take: jobs, tokens, GPU memory and hours."""
    input:
        item_tables=get_items,
        pairs=expand("results/{{study}}/pairs/{alignment}/train.parquet", alignment=get_trained()),
        heldout=get_every_heldout,
        texts=get_texts,
        companions=expand("results/{{study}}/companions/{set}.parquet", set=get_sets()),
        models=get_model_configs,
    output:
        training="results/{study}/plan.tsv",
        jobs="results/{study}/plan_jobs.tsv",
        text="results/{study}/plan.txt",
    log:
        "results/{study}/plan.log",
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        study=get_planned,
        machine=get_gpu_settings,
        code=fingerprint("study_plan"),
    script:
        "../scripts/plan_study.py"


rule plan:
    """The plan of the study."""
    input:
        expand(
            "results/{study}/{file}",
            study=config["study"],
            file=["plan.tsv", "plan_jobs.tsv", "plan.txt"],
        ),
    localrule: True
