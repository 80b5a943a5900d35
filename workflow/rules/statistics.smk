rule compute_metrics:
    """Accuracy, outcome rates and bias scores of every model, run and attribute."""
    input:
        items=get_items,
        predictions=get_predictions,
        answers=get_answers,
    output:
        report(
            "results/{study}/metrics.tsv",
            caption="../report/metrics.rst",
            category="Tables",
            labels={"table": "metrics"},
        ),
    log:
        "results/{study}/metrics.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        models=get_runs_by_model,
        statistics=lookup("statistics", within=config),
        code=fingerprint("outcomes"),
    script:
        "../scripts/compute_metrics.py"


rule test_spillover:
    """Paired change of each attribute's fairness, with tests, corrections and verdicts."""
    input:
        items=get_items,
        predictions=get_predictions,
        answers=get_answers,
    output:
        spillover=report(
            "results/{study}/spillover.tsv",
            caption="../report/spillover.rst",
            category="Tables",
            labels={"table": "spillover"},
        ),
        aggregate=report(
            "results/{study}/aggregate.tsv",
            caption="../report/aggregate.rst",
            category="Tables",
            labels={"table": "aggregate"},
        ),
    log:
        "results/{study}/spillover.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        models=get_runs_by_model,
        alignments=get_targets,
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics"),
    script:
        "../scripts/test_spillover.py"


rule tables:
    """Every table of the study."""
    input:
        expand(
            "results/{study}/{table}.tsv",
            study=config["study"],
            table=["metrics", "spillover", "aggregate"],
        ),
