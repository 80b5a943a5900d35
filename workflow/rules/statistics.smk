rule compute_metrics:
    """Accuracy, outcome rates, bias scores and the part of position, of every run."""
    input:
        item_tables=get_items,
        heldout=get_all_heldout,
        runs=get_run_files,
    output:
        metrics=report(
            "results/{study}/metrics.tsv",
            caption="../report/metrics.rst",
            category="Tables",
            labels={"table": "metrics"},
        ),
        position=report(
            "results/{study}/position.tsv",
            caption="../report/position.rst",
            category="Tables",
            labels={"table": "position"},
        ),
    log:
        "results/{study}/compute_metrics.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=get_runs,
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.runs", "statistics.metrics", "statistics.position"),
    script:
        "../scripts/compute_metrics.py"


rule test_spillover:
    """Paired change of each attribute's fairness, with tests, corrections and verdicts."""
    input:
        item_tables=get_items,
        heldout=get_all_heldout,
        runs=get_run_files,
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
        transitions=report(
            "results/{study}/transitions.tsv",
            caption="../report/transitions.rst",
            category="Tables",
            labels={"table": "transitions"},
        ),
    log:
        "results/{study}/test_spillover.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=get_runs,
        targets=get_targets,
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.runs", "statistics.aggregate", "statistics.transitions"),
    script:
        "../scripts/test_spillover.py"


rule tables:
    """Every table of the study."""
    input:
        expand("results/{study}/{table}.tsv", study=config["study"], table=get_tables()),
