from pathlib import Path

from snakemake.utils import min_version

# The oldest that was tried: 9.14 does not find profiles/default.
min_version("9.27")

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
    localrule: True
