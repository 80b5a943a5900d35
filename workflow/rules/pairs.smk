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
