rule write_findings:
    """The study on one page: the answer first, what else it could be, figures, tables, sources."""
    input:
        tables=rules.tables.input,
        figures=[file for file in rules.figures.input if file.endswith(".svg")],
        item_tables=get_items,
        heldout=get_every_heldout,
        runs=get_run_files,
        training=get_training_files,
        manifests=expand(
            "results/{{study}}/pairs/{alignment}/manifest.json",
            alignment=get_trained() if get_models() else [],
        ),
        page=[PAGE / name for name in ("page.html.j2", "page.css", "page.js")],
    output:
        report(
            "results/{study}/findings.html",
            caption="../report/findings.rst",
            category="Answer",
            labels={"page": "findings"},
        ),
    log:
        "results/{study}/write_findings.log",
    localrule: True
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        study=get_told,
        given=get_given_config,
        shown=get_shown,
        runs=get_runs,
        all_runs=[f"{model}/{run}" for model in get_models() for run in get_all_runs()],
        training=get_training_tables,
        contrasts=lookup("contrasts", within=config),
        companions=get_sets(),
        fetched=get_fetched() if get_models() else [],
        adapters=[
            f"{model}/{run}/adapter"
            for model in get_models()
            for run in get_runs_of(get_given("adapter"))
        ],
        caveats=caveats.of(config),
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint(
            "data.samples",
            "report.doubts",
            "report.examples",
            "report.findings",
            "report.flows",
            "report.learnt",
            "report.page",
            "report.sources",
            "statistics.runs",
        ),
    script:
        "../scripts/write_findings.py"


rule findings:
    """The study's page."""
    input:
        expand("results/{study}/findings.html", study=config["study"]),
    localrule: True
