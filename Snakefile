from pathlib import Path

from snakemake.utils import min_version

min_version("9.14")

# For other working directories than the checkout, if they have no config.yaml of their own.
DEFAULT_STUDY = str(Path(workflow.current_basedir) / "config.yaml")

# A study file stands for itself: Snakemake would merge it into config.yaml, and run the
# models of both.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml" if Path("config.yaml").exists() else DEFAULT_STUDY


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/pairs.smk"
include: "workflow/rules/alignment.smk"
include: "workflow/rules/scoring.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/findings.smk"
include: "workflow/rules/plan.smk"


report: "workflow/report/workflow.rst"


onstart:
    on_start()


onsuccess:
    on_success()


# Targets; what needs the network, which a cluster's nodes often lack; what takes seconds, and
# would wait for longer in a queue.
localrules:
    all,
    tables,
    export,
    predictions,
    companions,
    adapters,
    plan,
    fetch_bbq,
    fetch_companions,
    fetch_own_companions,
    fetch_model,
    fetch_model_config,
    fetch_adapter,
    prepare_items,
    prepare_companions,
    build_pairs,
    prepare_anchor,
    hold_out,
    inherit_heldout,
    derive_adapter,
    plot_accuracy_change,
    plot_bias_scores,
    plot_matrix,
    plot_trajectory,
    plot_ranking,
    plot_tradeoff,
    write_findings,
    findings,


rule all:
    """The whole study: predictions (so that a lost one is made again), tables, figures, page."""
    default_target: True
    input:
        rules.adapters.input,
        rules.predictions.input,
        rules.companions.input,
        rules.tables.input,
        rules.figures.input,
        rules.findings.input,
