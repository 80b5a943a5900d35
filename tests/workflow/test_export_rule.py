"""What a study exports, another study can be made of: the same tables come out."""

import json

import numpy as np
import pandas as pd
import yaml


def test_exported_answers_give_the_same_tables(workflow, published, bbq_items, tmp_path):
    items = bbq_items("Religion")
    rng = np.random.default_rng(0)
    given = {}
    for run in ("base", "elsewhere/seed0"):
        tables = []
        for order in ("012", "120", "201"):
            logp = np.log(rng.dirichlet([1, 1, 1, 0.1], len(items)))[:, :3]
            table = items[["attribute", "example_id"]].assign(order=order)
            table = table.assign(predicted_option=logp.argmax(axis=1))
            tables.append(table.assign(**{f"logp_{i}": logp[:, i] for i in range(3)}))
        given[run] = str(tmp_path / f"{run.replace('/', '-')}.csv")
        # as a spreadsheet in a country with decimal commas has it
        pd.concat(tables).to_csv(given[run], sep=";", decimal=",", index=False)
    study = {
        "study": "first",
        "bbq": {"type": "path", "path": str(published)},
        "models": {"theirs": {"predictions": given}},
        "alignments": {"elsewhere": {"target": []}},
        "evaluation": {"attributes": ["Religion"], "blocks_per_attribute": 30},
        "statistics": {"resamples": 200},
    }
    workflow.configure(study)
    workflow.run("tables", "export")
    first = workflow.folder / "results/first"
    samples = {
        run: next(first.glob(f"export/data/bbq/local/theirs{name}/*_samples.jsonl"))
        for run, name in (("base", ""), ("elsewhere/seed0", "_elsewhere_seed0"))
    }
    assert len(samples["base"].read_text().splitlines()) == 30 * 4 * 3
    card = yaml.safe_load((first / "export/theirs/elsewhere/seed0/model-index.yaml").read_text())
    table = pd.read_csv(first / "metrics.tsv", sep="\t", keep_default_na=False)
    aligned = table[table["run"] == "elsewhere/seed0"]
    values = [r["metrics"][0]["value"] for r in card["model-index"][0]["results"]]
    np.testing.assert_allclose(values, aligned["accuracy"].astype(float), rtol=1e-9)

    again = {"predictions": {run: str(file) for run, file in samples.items()}}
    workflow.configure(study | {"study": "second", "models": {"theirs": again}})
    workflow.run("tables")
    second = workflow.folder / "results/second"
    for name in ("metrics", "position", "spillover", "aggregate", "transitions", "certainty"):
        assert (second / f"{name}.tsv").read_bytes() == (first / f"{name}.tsv").read_bytes(), name
    log = (second / "compute_metrics.log").read_text()
    assert "samples of Every Eval Ever, 360 answers read; left aside: none" in log

    # nothing has changed: nothing is exported again
    workflow.configure(study)
    assert workflow.planned("export") == {}
    record = json.loads(samples["base"].with_name(samples["base"].name[:36] + ".json").read_text())
    assert record["detailed_evaluation_results"]["total_rows"] == 360
