rule build_pairs:
    """Split the targeted attributes' items and make preference pairs of the training part."""
    input:
        get_target_items,
    output:
        train="results/{study}/pairs/{alignment}/train.parquet",
        heldout="results/{study}/pairs/{alignment}/heldout.parquet",
        manifest="results/{study}/pairs/{alignment}/manifest.json",
    log:
        "results/{study}/pairs/{alignment}/build_pairs.log",
    wildcard_constraints:
        alignment=only(get_trained()),
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        exclude_groups=lookup("alignments/{alignment}/exclude_groups", within=config),
        split=lookup("alignments/{alignment}/split", within=config),
        pairs=lookup("alignments/{alignment}/pairs", within=config),
        code=fingerprint("data.pairs"),
    script:
        "../scripts/build_pairs.py"


rule hold_out:
    """Items of the targeted attributes that an alignment made elsewhere was not trained on."""
    input:
        item_tables=get_target_items,
        trained_on=get_trained_on,
    output:
        "results/{study}/pairs/{alignment}/heldout.parquet",
    log:
        "results/{study}/pairs/{alignment}/hold_out.log",
    wildcard_constraints:
        alignment=only(name for name in config["alignments"] if name not in get_trained()),
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        exclude_groups=lookup("alignments/{alignment}/exclude_groups", within=config),
        code=fingerprint("data.samples", "data.item_ids"),
    script:
        "../scripts/hold_out.py"
