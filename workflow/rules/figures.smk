rule plot_accuracy_change:
    """Change of accuracy of each attribute and context, the control's beside it."""
    input:
        unpack(get_change_tables),
    output:
        svg=report(
            "results/{study}/figures/accuracy_change_{alignment}.svg",
            caption="../report/accuracy_change.rst",
            category="Figures",
            labels={"figure": "change of accuracy", "alignment": "{alignment}"},
        ),
        pdf="results/{study}/figures/accuracy_change_{alignment}.pdf",
    log:
        "results/{study}/figures/accuracy_change_{alignment}.log",
    localrule: True
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        alpha=lookup("statistics/alpha", within=config),
        control=get_control,
        code=fingerprint("report.figures"),
    script:
        "../scripts/plot_accuracy_change.py"


rule plot_bias_scores:
    """Bias scores of each attribute and context, before and after."""
    input:
        "results/{study}/metrics.tsv",
    output:
        svg=report(
            "results/{study}/figures/bias_scores_{alignment}.svg",
            caption="../report/bias_scores.rst",
            category="Figures",
            labels={"figure": "bias scores", "alignment": "{alignment}"},
        ),
        pdf="results/{study}/figures/bias_scores_{alignment}.pdf",
    log:
        "results/{study}/figures/bias_scores_{alignment}.log",
    localrule: True
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        target=lookup("alignments/{alignment}/target", within=config),
        control=get_control,
        code=fingerprint("report.figures"),
    script:
        "../scripts/plot_bias_scores.py"


rule plot_matrix:
    """The spillover matrix of a model: alignments against attributes, the change as colour."""
    input:
        "results/{study}/matrix.tsv",
    output:
        svg=report(
            "results/{study}/figures/matrix_{value}_{model}.svg",
            caption="../report/matrix_figure.rst",
            category="Figures",
            labels={"figure": "spillover matrix of {model}: {value}", "alignment": "all"},
        ),
        pdf="results/{study}/figures/matrix_{value}_{model}.pdf",
    log:
        "results/{study}/figures/matrix_{value}_{model}.log",
    wildcard_constraints:
        value="accuracy|bias",
    localrule: True
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        alpha=lookup("statistics/alpha", within=config),
        code=fingerprint("report.heatmaps"),
    script:
        "../scripts/plot_matrix.py"


rule plot_trajectory:
    """Change of accuracy along training, items, strength or rank."""
    input:
        "results/{study}/trajectory.tsv",
    output:
        svg=report(
            "results/{study}/figures/along_{along}_{alignment}_{model}.svg",
            caption="../report/trajectory_figure.rst",
            category="Figures",
            labels={"figure": "change along {along}", "alignment": "{alignment}"},
        ),
        pdf="results/{study}/figures/along_{along}_{alignment}_{model}.pdf",
    log:
        "results/{study}/figures/along_{along}_{alignment}_{model}.log",
    wildcard_constraints:
        along="training|items|strength|rank",
    localrule: True
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        alpha=lookup("statistics/alpha", within=config),
        code=fingerprint("report.trajectories"),
    script:
        "../scripts/plot_trajectory.py"


rule plot_ranking:
    """Arms by what they gain on the target and what they do to their worst other attribute."""
    input:
        "results/{study}/ranking.tsv",
    output:
        svg=report(
            "results/{study}/figures/ranking_{model}.svg",
            caption="../report/ranking_figure.rst",
            category="Figures",
            labels={"figure": "ranking of {model}", "alignment": "all"},
        ),
        pdf="results/{study}/figures/ranking_{model}.pdf",
    log:
        "results/{study}/figures/ranking_{model}.log",
    localrule: True
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        alpha=lookup("statistics/alpha", within=config),
        code=fingerprint("report.rankings"),
    script:
        "../scripts/plot_ranking.py"


rule plot_tradeoff:
    """What alignment costs against what it changes, run by run."""
    input:
        runs="results/{study}/tradeoff_runs.tsv",
        tradeoff="results/{study}/tradeoff.tsv",
    output:
        svg=report(
            "results/{study}/figures/tradeoff_{model}.svg",
            caption="../report/tradeoff_figure.rst",
            category="Figures",
            labels={"figure": "trade-off of {model}", "alignment": "all"},
        ),
        pdf="results/{study}/figures/tradeoff_{model}.pdf",
    log:
        "results/{study}/figures/tradeoff_{model}.log",
    localrule: True
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        controls=list(get_controls().values()),
        alpha=lookup("statistics/alpha", within=config),
        code=fingerprint("report.tradeoffs"),
    script:
        "../scripts/plot_tradeoff.py"


rule figures:
    """Every figure of the study."""
    input:
        expand(
            "results/{study}/figures/{figure}_{alignment}.{format}",
            study=config["study"],
            figure=["accuracy_change", "bias_scores"],
            alignment=get_shown_alignments(),
            format=["svg", "pdf"],
        ),
        expand(
            "results/{study}/figures/matrix_{value}_{model}.{format}",
            study=config["study"],
            value=["accuracy", "bias"] if has_matrix() else [],
            model=config["models"],
            format=["svg", "pdf"],
        ),
        [
            f"results/{config['study']}/figures/{figure}.{form}"
            for figure in get_series_figures()
            for form in ("svg", "pdf")
        ],
    localrule: True
