"""Configuration, wildcards, and the functions that name a rule's inputs."""

import re
import shutil
import sys
from pathlib import Path

from snakemake.utils import validate

sys.path.insert(0, str(Path(workflow.basedir) / "workflow" / "scripts"))

from snakemake.logging import logger
from spillover import study
from spillover.core import configuration
from spillover.core.errors import InputError
from spillover.core.provenance import fingerprint
from yaml import safe_load

SCHEMA = Path(workflow.basedir) / "workflow" / "schemas" / "config.schema.yaml"
PINS = Path(workflow.basedir) / "resources" / "bbq.yaml"

try:
    configuration.check(config, safe_load(SCHEMA.read_text()))
    validate(config, str(SCHEMA))  # fills in the defaults
    study.check(config)
except InputError as error:
    names = " ".join(map(str, workflow.overwrite_configfiles)) or "config.yaml"
    sys.exit(f"{names}: {error}")

if workflow.is_main_process:
    for note in study.notes(config):
        logger.info(note)

BBQ = safe_load(PINS.read_text())


# The default profile lets one job at a time have this machine's GPU; a cluster has more of them.
resource_scopes:
    gpu="local",


def get_aligned_runs(alignments=None):
    """Runs that an alignment makes: {alignment}/seed{seed}, of all alignments by default."""
    return [
        f"{alignment}/seed{seed}"
        for alignment in alignments or config["alignments"]
        for seed in config["seeds"]
    ]


def get_models():
    """Models that this workflow evaluates itself."""
    return [name for name, model in config["models"].items() if "source" in model]


def get_bbq_source(wildcards):
    """The user's files of BBQ, if they are what the data come from."""
    return [config["bbq"]["path"]] if config["bbq"]["type"] == "path" else []


def get_model_source(wildcards):
    """The user's model files, so that a change of them is noticed."""
    source = config["models"][wildcards.model]["source"]
    if source["type"] != "path":
        return []
    folder = Path(source["path"])
    return sorted(str(file) for file in folder.glob("*") if file.is_file()) or [str(folder)]


def get_weights(wildcards):
    """Folder of the weights that a model computes with: as fetched, or quantised from those."""
    quantized = config["models"][wildcards.model]["quantization"] == "nf4"
    return "resources/models/{model}.nf4" if quantized else "resources/models/{model}"


def get_model_configs(wildcards):
    """Folders with each model's configuration and tokenizer; of a hub model without weights."""
    return [
        (
            f"resources/model_configs/{name}"
            if config["models"][name]["source"]["type"] == "hub"
            else f"resources/models/{name}"
        )
        for name in get_models()
    ]


def get_target_items(wildcards):
    """Item tables of the attributes that an alignment targets."""
    return expand(
        "results/{{study}}/items/{attribute}.parquet",
        attribute=config["alignments"][wildcards.alignment]["target"],
    )


def get_pairs_settings(wildcards):
    """What an alignment's preference pairs are made of."""
    alignment = config["alignments"][wildcards.alignment]
    return {key: alignment[key] for key in ("target", "pairs")}


def get_adapter(wildcards):
    """Adapter of an aligned run; nothing for the base."""
    if wildcards.run == "base":
        return []
    return multiext(
        "results/{study}/{model}/{run}/adapter/adapter_",
        "model.safetensors",
        "config.json",
    )


def get_heldout(wildcards):
    """What training held out of the attributes that it targeted.

    An aligned run is evaluated on what its own alignment held out, the base on what any did.
    """
    alignments = config["alignments"] if wildcards.run == "base" else [wildcards.run.split("/")[0]]
    return expand("results/{{study}}/pairs/{alignment}/heldout.parquet", alignment=alignments)


def get_items(wildcards):
    """Item tables of the attributes that are evaluated."""
    return expand(
        "results/{{study}}/items/{attribute}.parquet",
        attribute=config["evaluation"]["attributes"],
    )


def get_runs(wildcards):
    """Each model's runs, and each run's files: predictions made here, or answers made elsewhere."""
    predictions = "results/{study}/{model}/{run}/predictions/{attribute}.parquet"
    return {
        name: {
            run: (
                [model["predictions"][run]]
                if "predictions" in model
                else expand(
                    predictions,
                    study=config["study"],
                    model=name,
                    run=run,
                    attribute=config["evaluation"]["attributes"],
                )
            )
            for run in ["base", *get_aligned_runs()]
        }
        for name, model in config["models"].items()
    }


def get_run_files(wildcards):
    """All files of all runs."""
    return [
        file for runs in get_runs(wildcards).values() for files in runs.values() for file in files
    ]


def get_targets(wildcards):
    """Attributes that each alignment targets."""
    return {name: alignment["target"] for name, alignment in config["alignments"].items()}


def get_controls():
    """The control of each alignment that has one."""
    return {
        name: alignment["control"]
        for name, alignment in config["alignments"].items()
        if alignment["control"]
    }


def get_control(wildcards):
    """The control of an alignment, or None."""
    return config["alignments"][wildcards.alignment]["control"]


def get_shown_alignments():
    """Alignments with figures of their own: those that are no mere control of another."""
    controls = get_controls()
    return [
        name for name in config["alignments"] if name in controls or name not in controls.values()
    ]


def get_change_tables(wildcards):
    """Tables that a figure of changes is drawn from."""
    names = ["spillover", "aggregate"] + (["contrasts"] if get_control(wildcards) else [])
    return {name: f"results/{wildcards.study}/{name}.tsv" for name in names}


def get_all_heldout(wildcards):
    """Held-out items of every alignment, for answers made elsewhere to be compared on."""
    if len(get_models()) == len(config["models"]):
        return []
    return expand(
        "results/{{study}}/pairs/{alignment}/heldout.parquet",
        alignment=[name for name, target in get_targets(wildcards).items() if target],
    )


def get_tables():
    """Names of the tables: those of changes need an alignment."""
    changes = ["spillover", "aggregate", "transitions", "certainty"] if config["alignments"] else []
    contrasts = ["contrasts"] if get_controls() or config["contrasts"] else []
    return ["metrics", "position", "cloze_rules", *changes, *contrasts]


def get_threads(n_jobs, most):
    """Threads of one of several jobs that can run at once: its share of this machine's cores.

    Two jobs of one thread end a quarter sooner than one after the other with two threads.
    """

    def threads(wildcards):
        if not (workflow.is_main_process and workflow.cores):
            return most  # a job on a cluster has what was asked for
        return min(max(workflow.cores // max(n_jobs, 1), 1), most)

    return threads


def get_gpus(wildcards):
    """GPUs that a job on a model takes; on a cluster the profile says it instead."""
    device = config["machine"]["device"]
    has_gpu = any(map(shutil.which, ("nvidia-smi", "rocm-smi")))
    return int(device == "cuda" or (device == "auto" and has_gpu))


def get_gpu_settings(wildcards):
    """What of the machine the plan of training depends on."""
    return {key: config["machine"][key] for key in ("gpu_memory", "training_tokens_per_batch")}


def get_evaluation(wildcards):
    """What an answer depends on: the way of scoring and its own settings, and no other way's."""
    evaluation = config["evaluation"]
    keys = ["scoring", evaluation["scoring"]]
    if evaluation["scoring"] != "cloze":
        keys.append("option_orders")
    return {key: evaluation[key] for key in keys if key in evaluation}


def get_model_settings(wildcards):
    """How a model's weights are loaded: the same before and after alignment."""
    model = config["models"][wildcards.model]
    return {key: model[key] for key in ("quantization", "dtype")}


wildcard_constraints:
    study=re.escape(config["study"]),
    model="|".join(map(re.escape, config["models"])),
    alignment="|".join(map(re.escape, config["alignments"])),
    seed="|".join(map(str, config["seeds"])),
    run="base|" + "|".join(map(re.escape, get_aligned_runs())),
    attribute="|".join(BBQ["attributes"]),
