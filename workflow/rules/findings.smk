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
            "results/{{study}}/pairs/{alignment}/manifest.json", alignment=get_trained()
        ),
        models=expand("resources/models/{model}", model=get_models()),
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
    conda:
        "../../envs/statistics.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        config=get_given_config,
        models=lookup("models", within=config),
        contrasts=lookup("contrasts", within=config),
        seeds=lookup("seeds", within=config),
        shown=get_shown,
        runs=get_runs,
        training=get_training_tables,
        caveats=caveats.of(config),
        blocks=lookup("evaluation/blocks_per_attribute", within=config),
        statistics=lookup("statistics", within=config),
        code=fingerprint("report.page", "report.doubts", "report.examples", "report.sources"),
    script:
        "../scripts/write_findings.py"


rule findings:
    """The study's page."""
    input:
        expand("results/{study}/findings.html", study=config["study"]),
