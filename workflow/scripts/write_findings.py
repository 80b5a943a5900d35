"""The findings of a study on one page that opens without a network."""

import json
from pathlib import Path

import pandas as pd
import yaml
from spillover.core.files import file_sha256, read_table, replacing
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.report import doubts, findings, page, sources
from spillover.report.answer import answers, models_apart, summary
from spillover.report.examples import examples
from spillover.report.flows import flows
from spillover.report.learnt import learnt
from spillover.statistics import runs


def learnt_by_all() -> dict:
    """By model and alignment what was seen of learning."""
    found = {}
    for model, alignments in params.training.items():
        for name, files in alignments.items():
            read = {kind: [read_table(path) for path in of] for kind, of in files.items()}
            one = learnt(read["diagnostics"], read["training"], settings["alpha"])
            if one is not None:
                found[model, name] = one
    return found


def changed_items(answer) -> dict:
    """Examples of an alignment with its first seed."""
    files = params.runs[answer.model]
    asked = asked_items(items, heldout_for(answer.alignment, heldout), params.blocks)
    of_runs = ("base", f"{answer.alignment}/seed{config['seeds'][0]}")
    base, aligned = (runs.read_run(files[run], items, asked) for run in of_runs)
    return examples(items, base, aligned, answer.targets)


def further() -> list[str]:
    """What tables over several alignments say, in a sentence each."""
    said = models_apart(tables.get("contrasts"), params.contrasts)
    if "ranking" in tables:
        for model, table in tables["ranking"].groupby("model", sort=False):
            said.append(f"{model}: {findings.ranking(table)[0]}")
    if "timing" in tables:
        for model, table in tables["timing"].groupby("model", sort=False):
            said += [f"{model}, {sentence}" for sentence in findings.order(table)]
    return said


with log_to(snakemake.log[0]):
    params, settings = snakemake.params, snakemake.params.statistics
    config, models = params.study, params.study["models"]
    tables = {Path(path).stem: read_table(path) for path in snakemake.input.tables}
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    n_templates = items.groupby("attribute")["template"].nunique().to_dict()
    seen = learnt_by_all()
    found = answers(tables, params.shown, seen, n_templates, settings)
    manifests = {
        Path(path).parent.name: json.loads(Path(path).read_text())
        for path in snakemake.input.manifests
    }
    checks = doubts.of_study(found, tables, seen, manifests, config, params.caveats)
    drawn = [
        flows(tables["transitions"], answer.model, answer.alignment, context, answer.targets)
        for answer in found
        for context in ("ambig", "disambig")
    ]
    metrics = tables["metrics"]
    folder = Path(snakemake.output[0]).parent
    bases = metrics[(metrics["run"] == "base") & (metrics["label_type"] == "all")]
    html = page.render(
        snakemake.input.page[0].rpartition("/")[0],
        study=snakemake.wildcards.study,
        title=page.title(found),
        answers=found,
        summary=summary(found),
        reach=max([answer.reach for answer in found], default=1),
        bases=bases.itertuples(index=False),
        margin=f"{100 * settings['equivalence_margin']:g}",
        further=further(),
        doubts=doubts.told_once(checks),
        doubted=doubts.of_each(checks, found),
        figures=page.figures(snakemake.input.figures, found),
        flows=[one for one in drawn if one is not None],
        examples=[
            {"model": a.model, "alignment": a.alignment, "examples": changed_items(a)}
            for a in found
        ],
        seed=config["seeds"][0] if len(config["seeds"]) > 1 else None,
        tables=[page.table_of(path) for path in snakemake.input.tables],
        sources=sources.recorded(Path("resources/models"), params.fetched)
        | sources.recorded(folder, params.adapters)
        | {
            f"{model}, {run}": f"answers made elsewhere; sha256 {file_sha256(files[0])}"
            for model, of_model in params.runs.items()
            if "source" not in models[model]
            for run, files in of_model.items()
        },
        companions=params.companions,
        commit=sources.commit(),
        versions=sources.versions(),
        machine=sources.machine(),
        trained_on=sources.trained_on(folder, params.all_runs),
        durations=sources.durations(folder, params.all_runs).to_dict("records"),
        configuration=yaml.safe_dump(
            json.loads(json.dumps(params.given)), sort_keys=False, allow_unicode=True
        ),
        citations=sources.citations(
            bool(manifests),
            any(model["quantization"] == "nf4" for model in models.values() if "source" in model),
        ),
    )
    with replacing(Path(snakemake.output[0])) as path:
        path.write_text(html)
