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
        cloze_rules=report(
            "results/{study}/cloze_rules.tsv",
            caption="../report/cloze_rules.rst",
            category="Tables",
            labels={"table": "cloze_rules"},
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
        code=fingerprint(
            "statistics.runs",
            "statistics.metrics",
            "statistics.position",
            "statistics.cloze_rules",
        ),
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
        certainty=report(
            "results/{study}/certainty.tsv",
            caption="../report/certainty.rst",
            category="Tables",
            labels={"table": "certainty"},
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
        code=fingerprint(
            "statistics.runs",
            "statistics.aggregate",
            "statistics.transitions",
            "statistics.movement",
        ),
    script:
        "../scripts/test_spillover.py"


rule test_contrasts:
    """What of a change is not its control's too, and what two models differ in as they are."""
    input:
        item_tables=get_items,
        heldout=get_all_heldout,
        runs=get_run_files,
    output:
        report(
            "results/{study}/contrasts.tsv",
            caption="../report/contrasts.rst",
            category="Tables",
            labels={"table": "contrasts"},
        ),
    log:
        "results/{study}/test_contrasts.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=get_runs,
        targets=get_targets,
        controls=get_controls(),
        contrasts=lookup("contrasts", within=config),
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.runs", "statistics.contrasts"),
    script:
        "../scripts/test_contrasts.py"


rule test_matrix:
    """Every alignment's effect on every attribute, corrected as one family."""
    input:
        unpack(get_change_tables_of_all),
    output:
        report(
            "results/{study}/matrix.tsv",
            caption="../report/matrix.rst",
            category="Tables",
            labels={"table": "matrix"},
        ),
    log:
        "results/{study}/test_matrix.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        targets=get_targets,
        controls=get_controls(),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.matrix"),
    script:
        "../scripts/test_matrix.py"


rule profile_matrix:
    """Which alignment spills most, which attribute suffers most, and which resemble each other."""
    input:
        item_tables=get_items,
        heldout=get_all_heldout,
        runs=get_run_files,
    output:
        report(
            "results/{study}/profiles.tsv",
            caption="../report/profiles.rst",
            category="Tables",
            labels={"table": "profiles"},
        ),
    log:
        "results/{study}/profile_matrix.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=get_runs,
        targets=get_targets,
        controls=get_controls(),
        shown=get_shown_alignments(),
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.runs", "statistics.profiles"),
    script:
        "../scripts/profile_matrix.py"


rule test_overlap:
    """How far shared words go with spillover."""
    input:
        item_tables=get_items,
        matrix="results/{study}/matrix.tsv",
    output:
        vocabulary=report(
            "results/{study}/vocabulary.tsv",
            caption="../report/vocabulary.rst",
            category="Tables",
            labels={"table": "vocabulary"},
        ),
        overlap=report(
            "results/{study}/overlap.tsv",
            caption="../report/overlap.rst",
            category="Tables",
            labels={"table": "overlap"},
        ),
    log:
        "results/{study}/test_overlap.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        targets=get_targets,
        shown=get_shown_alignments(),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.overlap"),
    script:
        "../scripts/test_overlap.py"


rule test_trajectory:
    """Changes along training, items, strength or rank; and what comes first."""
    input:
        item_tables=get_items,
        heldout=get_all_heldout,
        runs=get_run_files,
        on_the_way=get_files_on_the_way,
    output:
        trajectory=report(
            "results/{study}/trajectory.tsv",
            caption="../report/trajectory.rst",
            category="Tables",
            labels={"table": "trajectory"},
        ),
        timing=report(
            "results/{study}/timing.tsv",
            caption="../report/timing.rst",
            category="Tables",
            labels={"table": "timing"},
        ),
    log:
        "results/{study}/test_trajectory.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=get_runs,
        on_the_way=get_way,
        series=series.series_of(config),
        targets=get_targets,
        controls=get_controls(),
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.runs", "statistics.trajectory"),
    script:
        "../scripts/test_trajectory.py"


rule rank_arms:
    """Arms against a reference: which does the same with less harm to other attributes."""
    input:
        item_tables=get_items,
        heldout=get_all_heldout,
        runs=get_run_files,
        companions=expand("results/{{study}}/companions/{set}.parquet", set=get_sets()),
        answers=get_companion_answers,
    output:
        report(
            "results/{study}/ranking.tsv",
            caption="../report/ranking.rst",
            category="Tables",
            labels={"table": "ranking"},
        ),
    log:
        "results/{study}/rank_arms.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=get_runs,
        seeds=config["seeds"],
        kinds=get_kinds(),
        answers=lambda wildcards: get_companion_runs(wildcards) if get_sets() else {},
        arms=arms.arms_of(config) if "ranking" in config else [],
        reference=lookup("ranking/reference", within=config, default=None),
        targets=get_ranking_targets,
        judged=arms.judged(config) if "ranking" in config else [],
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint(
            "statistics.runs", "statistics.ranking", *["statistics.tradeoff"] * bool(get_sets())
        ),
    script:
        "../scripts/rank_arms.py"


rule test_forgetting:
    """What alignments cost: measures of companion sets, before and after, and net of controls."""
    input:
        companions=expand("results/{{study}}/companions/{set}.parquet", set=get_sets()),
        runs=get_companion_answers,
    output:
        report(
            "results/{study}/forgetting.tsv",
            caption="../report/forgetting.rst",
            category="Tables",
            labels={"table": "forgetting"},
        ),
    log:
        "results/{study}/test_forgetting.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        sets=get_sets(),
        kinds=get_kinds(),
        runs=get_companion_runs,
        alignments=list(config["alignments"]),
        seeds=config["seeds"],
        controls=get_controls(),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.forgetting"),
    script:
        "../scripts/test_forgetting.py"


rule test_tradeoff:
    """Do language, ability, stereotypes and fairness change together, over the study's runs?"""
    input:
        companions=expand("results/{{study}}/companions/{set}.parquet", set=get_sets()),
        answers=get_companion_answers,
        item_tables=get_items,
        heldout=get_every_heldout,
        runs=get_run_files,
        on_the_way=get_files_on_the_way,
    output:
        tradeoff=report(
            "results/{study}/tradeoff.tsv",
            caption="../report/tradeoff.rst",
            category="Tables",
            labels={"table": "tradeoff"},
        ),
        runs="results/{study}/tradeoff_runs.tsv",
    log:
        "results/{study}/test_tradeoff.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        sets=get_sets(),
        kinds=get_kinds(),
        answers=get_companion_runs,
        origins=get_origins(),
        predictions=get_all_predictions,
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint("statistics.tradeoff", "statistics.runs"),
    script:
        "../scripts/test_tradeoff.py"


rule tables:
    """Every table of the study."""
    input:
        expand("results/{study}/{table}.tsv", study=config["study"], table=get_tables()),
    localrule: True


rule export_results:
    """Every run's answers and scores, in the forms that other tools read."""
    input:
        item_tables=get_items,
        heldout=get_all_heldout,
        runs=get_run_files,
        metrics="results/{study}/metrics.tsv",
    output:
        directory("results/{study}/export"),
    log:
        "results/{study}/export_results.log",
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=get_runs,
        models=lookup("models", within=config),
        evaluation=get_evaluation,
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        alpha=lookup("statistics/alpha", within=config),
        version=fingerprint("scoring.score"),
        code=fingerprint("statistics.runs", "report.export"),
    script:
        "../scripts/export_results.py"


rule export:
    """Every run's answers and scores, in the forms that other tools read."""
    input:
        expand("results/{study}/export", study=config["study"]),
    localrule: True
