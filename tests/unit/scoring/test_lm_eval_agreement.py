"""Cloze scoring with all unknown phrases chooses what lm-eval's ``bbq`` task chooses, and
companion sets score as its tasks do: those of them that it has and that are not asked in a chat.

lm-eval (0.4.13) is no dependency of the workflow: without it this test is skipped. The model is
that of the default study if it was fetched, else a tiny random one.
"""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_models
from spillover.data import prompts
from spillover.data.samples import spread_blocks
from spillover.models.load import load_model, load_tokenizer
from spillover.scoring.companions import score_companions
from spillover.scoring.score import score
from spillover.statistics.companions import quantities

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"
)

FETCHED = Path(__file__).parents[3] / "resources" / "models" / "smollm2-135m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if (FETCHED / "model.safetensors").is_file():
        return FETCHED
    return tiny_models.make(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def items(bbq_items, nine_attributes):
    """Six blocks of each of the nine attributes: 216 items."""
    return pd.concat([spread_blocks(bbq_items(name), 6) for name in nine_attributes])


def lm_eval_choices(folder, items):
    """For each item, lm-eval's choice among its twelve candidates, and their scores."""
    from jinja2 import Template
    from lm_eval import tasks
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.bbq import utils

    task_file = Path(tasks.__file__).parent / "bbq" / "bbq_multiple_choice.yaml"
    doc_to_text = next(
        line.split(":", 1)[1].strip().strip('"').encode().decode("unicode_escape")
        for line in task_file.read_text().splitlines()
        if line.startswith("doc_to_text")
    )
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8)
    docs = [
        {"context": item["context"], "question": item["question"]}
        | {f"ans{i}": text for i, text in enumerate(item["options"])}
        for item in items.to_dict("records")
    ]
    choices = [utils.doc_to_choice(doc) for doc in docs]
    requests = [
        # The task's target_delimiter is its default, a space.
        Instance("loglikelihood", doc, (Template(doc_to_text).render(doc), f" {choice}"), i)
        for i, (doc, texts) in enumerate(zip(docs, choices, strict=True))
        for choice in texts
    ]
    scores = np.reshape([logp for logp, _ in lm.loglikelihood(requests)], (len(docs), 12))
    # process_results_multiple_choice: the choice with the highest likelihood
    return choices, scores


def test_cloze_with_all_unknowns_chooses_what_lm_eval_chooses(folder, items):
    choices, scores = lm_eval_choices(folder, items)
    model = load_model(folder, "none", "float32", "cpu")
    table = score(
        items,
        model,
        load_tokenizer(folder),
        scoring="cloze",
        cloze={"prompt": "plain", "unknowns": "all"},
    )
    assert len(items) == 216
    assert list(table["item_id"]) == list(items["item_id"])
    differences = []
    rows = zip(items.to_dict("records"), table.to_dict("records"), choices, scores, strict=True)
    for item, row, texts, theirs in rows:
        stands_for = dict(prompts.cloze_candidates(item, "all"))
        assert set(texts) == set(stands_for)
        assert row["predicted"] == stands_for[texts[int(np.argmax(theirs))]]
        for option in range(3):
            best = max(
                s for s, text in zip(theirs, texts, strict=True) if stands_for[text] == option
            )
            differences.append(abs(best - row[f"logp_{option}"]))
    print(f"{len(items)} items, largest difference {max(differences):.1e}")
    # lm-eval takes the softmax in the model's dtype; both are float32 here.
    assert max(differences) < 1e-3


def lm_eval_task(folder, path: str, name: str, documents: list[dict], data: Path) -> dict:
    """What lm-eval says of documents by one of its own tasks, read from a file in place of the hub.

    Its measures, and for each document the log-probabilities of its choices.
    """
    from lm_eval import simple_evaluate, tasks
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    task = load_yaml(Path(tasks.__file__).parent / path)
    data.write_text("\n".join(map(json.dumps, documents)))
    del task["dataset_name"]
    task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    result = simple_evaluate(
        model=HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8),
        tasks=[task],
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    samples = sorted(result["samples"][name], key=lambda sample: sample["doc_id"])
    logp = [[float(value) for (value, _) in sample["filtered_resps"]] for sample in samples]
    return {"measures": result["results"][name], "logp": np.array(logp)}


def agree(folder, items, kind: str, quantity: str, theirs: dict, measure: str) -> None:
    """Log-probabilities of all options, and a measure, are lm-eval's."""
    model = load_model(folder, "none", "float32", "cpu")
    ours = score_companions(items, model, load_tokenizer(folder), chat=False)
    logp = np.array(ours["logp"].tolist())
    print(f"{len(items)} items, largest difference {np.abs(logp - theirs['logp']).max():.1e}")
    np.testing.assert_allclose(logp, theirs["logp"], atol=1e-3)
    found = quantities(kind, items, ours)[quantity].mean()
    assert found == pytest.approx(theirs["measures"][measure])


def test_winogender_scores_as_lm_evals_task(folder, companion_items, tmp_path):
    items = companion_items("winogender").iloc[::20]
    documents = []
    for item in items.to_dict("records"):
        sentence, pronoun = re.fullmatch(
            "(.*) \u2018(.*)\u2019 refers to the", item["context"]
        ).groups()
        occupation, participant = item["options"]
        documents.append(
            {
                "sentence": sentence,
                "pronoun": pronoun.lower(),
                "occupation": occupation,
                "participant": participant,
                "label": int(item["gold"]),
            }
        )
    path = "winogender/winogender.yaml"
    theirs = lm_eval_task(folder, path, "winogender_all", documents, tmp_path / "items.json")
    agree(folder, items, "coreference", "right", theirs, "acc,none")


def test_crows_pairs_scores_as_lm_evals_task(folder, companion_items, tmp_path):
    items = companion_items("crows_pairs").iloc[::40]
    documents = [
        {"sent_more": more, "sent_less": less, "bias_type": group}
        for (more, less), group in zip(items["options"], items["group"], strict=True)
    ]
    path = "crows_pairs/crows_pairs_english.yaml"
    theirs = lm_eval_task(folder, path, "crows_pairs_english", documents, tmp_path / "items.json")
    agree(folder, items, "crows_pairs", "stereotype", theirs, "pct_stereotype,none")
