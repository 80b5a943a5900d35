"""The jobs of a study that load a model: which there are, and which wait for which.

The rules say the same; a test holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from spillover import derived, elsewhere, other_attributes


@dataclass(frozen=True)
class Job:
    """A job that loads a model's weights, once.

    Attributes
    ----------
    rule : ``quantize_model``, ``answer_prompts``, ``train_dpo``, ``diagnose_alignment``,
        ``score_items`` or ``score_companions``.
    model : the model, by its name in the study.
    run : ``base``, ``{alignment}/seed{seed}`` or that ``@{share}``; of a quantisation empty, of
        answers to an alignment's prompts ``{alignment}``.
    weights : name under ``resources/models`` of what is loaded: the model or a checkpoint.
    needs : names of the jobs that must have ended before.
    of : the companion set that is scored; else empty.
    """

    rule: str
    model: str
    run: str
    weights: str
    needs: tuple[str, ...] = ()
    of: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.rule, self.weights, self.run, self.of)))

    @property
    def on_gpu(self) -> bool:
        """Quantising is always done on a CPU, so that every machine has the same weights."""
        return self.rule != "quantize_model"

    @property
    def alignment(self) -> str:
        """The alignment of its run; empty for the base."""
        return "" if self.run == "base" else self.run.partition("/seed")[0]


def jobs_of(study: Mapping) -> list[Job]:
    """A study's jobs, those that others need before them.

    Parameters
    ----------
    study : its ``models``, ``alignments``, ``seeds``, ``evaluation`` and ``companions``, with
        defaults.
    """
    models = [name for name, model in study["models"].items() if "source" in model]
    quantized = {
        name: Job("quantize_model", elsewhere.base_of(name), "", name)
        for name in [*models, *elsewhere.checkpoints(study)]
        if study["models"][elsewhere.base_of(name)]["quantization"] == "nf4"
    }
    jobs = list(quantized.values())

    def add(
        rule: str, model: str, run: str, *needs: str, weights: str | None = None, of: str = ""
    ) -> str:
        weights = weights or model
        before = [quantized[weights].name] if weights in quantized else []
        job = Job(rule, model, run, weights, (*before, *needs), of)
        jobs.append(job)
        return job.name

    # What an alignment costs is a change: without one there is nothing to compare.
    sets = study["companions"]["sets"] if study["alignments"] else []

    for model in models:
        add("score_items", model, "base")
        for of in sets:
            add("score_companions", model, "base", of=of)
        for name, alignment in study["alignments"].items():
            trained = elsewhere.is_trained(alignment)
            answered = []
            if trained and other_attributes.of_term(alignment, "replay"):
                answered = [add("answer_prompts", model, name)]
            for seed in study["seeds"]:
                run = f"{name}/seed{seed}"
                before, shares = [], []
                if trained:
                    before = [add("train_dpo", model, run, *answered)]
                    shares = study["evaluation"]["checkpoints"]
                for origin in derived.origins(study, name) if derived.sources(alignment) else []:
                    if elsewhere.is_trained(study["alignments"][origin]):
                        # As it is called, whether it stands before or behind this one.
                        before.append(Job("train_dpo", model, f"{origin}/seed{seed}", model).name)
                checkpoint = elsewhere.checkpoint(study, model, run)
                # A checkpoint has no adapter to switch off, nor has a strength one of its own;
                # other data than BBQ have no target.
                own = not checkpoint and derived.strength(alignment) is None
                if own and alignment["target"]:
                    add("diagnose_alignment", model, run, *before)
                add("score_items", model, run, *before, weights=checkpoint)
                for of in sets:
                    add("score_companions", model, run, *before, weights=checkpoint, of=of)
                for share in shares:
                    on_the_way = f"{run}@{share:.2f}"
                    add("score_items", model, on_the_way, *before)
                    for of in sets:
                        add("score_companions", model, on_the_way, *before, of=of)
    return jobs
