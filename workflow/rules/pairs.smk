rule build_pairs:
    """Split the targeted attributes' items and make preference pairs of the training part."""
    input:
        targets=get_target_items,
        others=get_other_items("anchor", "replay"),
    output:
        train="results/{study}/pairs/{alignment}/train.parquet",
        heldout="results/{study}/pairs/{alignment}/heldout.parquet",
        manifest="results/{study}/pairs/{alignment}/manifest.json",
    log:
        "results/{study}/pairs/{alignment}/build_pairs.log",
    wildcard_constraints:
        alignment=only(get_trained()),
    localrule: True
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
        code=fingerprint("data.pairs", "data.other_prompts"),
    script:
        "../scripts/build_pairs.py"


rule prepare_anchor:
    """Prompts of other attributes, with their answers, on which training keeps to the base."""
    input:
        get_other_items("anchor"),
    output:
        "results/{study}/pairs/{alignment}/anchor.parquet",
    log:
        "results/{study}/pairs/{alignment}/prepare_anchor.log",
    wildcard_constraints:
        alignment=only(get_with("anchor")),
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        exclude_groups=lookup("alignments/{alignment}/exclude_groups", within=config),
        split=lookup("alignments/{alignment}/split", within=config),
        max_items=lookup("alignments/{alignment}/objective/anchor/max_items", within=config),
        code=fingerprint("data.other_prompts"),
    script:
        "../scripts/prepare_anchor.py"


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
        alignment=only(
            name
            for name, settings in config["alignments"].items()
            if name not in get_trained() and not derived.sources(settings)
        ),
    localrule: True
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


rule inherit_heldout:
    """Items that none of the alignments that a derived one is made of was trained on."""
    input:
        get_source_heldout,
    output:
        "results/{study}/pairs/{alignment}/heldout.parquet",
    log:
        "results/{study}/pairs/{alignment}/inherit_heldout.log",
    wildcard_constraints:
        alignment=only(
            name for name, settings in config["alignments"].items() if derived.sources(settings)
        ),
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=fingerprint("data.samples"),
    script:
        "../scripts/inherit_heldout.py"
