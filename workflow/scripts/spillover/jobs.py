"""The jobs of a study that load a model: which there are, and which wait for which.

The rules say the same; a test holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from spillover import elsewhere


@dataclass(frozen=True)
class Job:
    """A job that loads a model's weights, once.

    Attributes
    ----------
    rule : ``quantize_model``, ``train_dpo``, ``diagnose_alignment`` or ``score_items``.
    model : the model, by its name in the study.
    run : ``base`` or ``{alignment}/seed{seed}``; of a quantisation empty.
    weights : name under ``resources/models`` of what is loaded: the model or a checkpoint.
    needs : names of the jobs that must have ended before.
    """

    rule: str
    model: str
    run: str
    weights: str
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.rule} {self.weights} {self.run}".strip()

    @property
    def on_gpu(self) -> bool:
        """Quantising is always done on a CPU, so that every machine has the same weights."""
        return self.rule != "quantize_model"

    @property
    def alignment(self) -> str:
        """The alignment of its run; empty for the base."""
        return self.run.partition("/seed")[0] if "/seed" in self.run else ""


def jobs_of(study: Mapping) -> list[Job]:
    """A study's jobs, those that others need before them.

    Parameters
    ----------
    study : its ``models``, ``alignments`` and ``seeds``, with defaults.
    """
    models = [name for name, model in study["models"].items() if "source" in model]
    quantized = {
        name: Job("quantize_model", elsewhere.base_of(name), "", name)
        for name in [*models, *elsewhere.checkpoints(study)]
        if study["models"][elsewhere.base_of(name)]["quantization"] == "nf4"
    }
    jobs = list(quantized.values())

    def add(rule: str, model: str, run: str, *needs: Job, weights: str | None = None) -> Job:
        weights = weights or model
        before = [quantized[weights]] if weights in quantized else []
        job = Job(rule, model, run, weights, tuple(other.name for other in [*before, *needs]))
        jobs.append(job)
        return job

    for model in models:
        add("score_items", model, "base")
        for name, alignment in study["alignments"].items():
            for run in (f"{name}/seed{seed}" for seed in study["seeds"]):
                trained = elsewhere.is_trained(alignment)
                before = [add("train_dpo", model, run)] if trained else []
                checkpoint = elsewhere.checkpoint(study, model, run)
                # A checkpoint has no adapter to switch off, other data than BBQ no target.
                if not checkpoint and alignment["target"]:
                    add("diagnose_alignment", model, run, *before)
                add("score_items", model, run, *before, weights=checkpoint)
    return jobs
