"""The page itself: texts are escaped, figures stand in it, examples are chosen by rule."""

from pathlib import Path

import pandas as pd
import pytest
from browser import opened
from spillover.report import page, sources
from spillover.report.answer import Answer
from spillover.report.change import Change
from spillover.report.doubts import CLEAR, Doubt
from spillover.report.examples import Example, examples
from spillover.report.learnt import Learnt

FOLDER = Path(__file__).parents[3] / "workflow" / "report" / "findings"
MARKUP = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\"' onload='x"


@pytest.fixture
def parts():
    """A page whose every text of a user's or a model's is markup."""
    change = Change("Age", "ambig", 0.1, 0.05, 0.15, 0.01, "improved", 40, 20)
    answer = Answer(
        MARKUP,
        MARKUP,
        [MARKUP],
        MARKUP,
        shuffled=False,
        control_shuffled=True,
        n_seeds=1,
        learnt=Learnt(True, MARKUP),
        corrected=True,
        pooled=[change],
        cells=[change],
        own=[change],
        detectable=[0.1],
        family=1,
        available=[25],
        trainings=MARKUP,
        costs=[MARKUP],
        alpha=0.05,
    )
    example = Example(
        MARKUP, "Age", "ambig", MARKUP, MARKUP, [(MARKUP, 0.1, 0.9)] * 3, 0, 1, 1, (MARKUP, MARKUP)
    )
    return {
        "study": MARKUP,
        "title": MARKUP,
        "summary": MARKUP,
        "answers": [answer],
        "bases": [],
        "margin": "2",
        "further": [MARKUP],
        "doubts": [Doubt(MARKUP, MARKUP, CLEAR, MARKUP)],
        "doubted": [[Doubt(MARKUP, MARKUP, CLEAR, MARKUP)]],
        "figures": [page.Figure("data:image/svg+xml;base64,", MARKUP, MARKUP)],
        "flows": [],
        "examples": [{"model": MARKUP, "alignment": MARKUP, "examples": {"right": [example]}}],
        "seed": 0,
        "tables": [{"name": "spillover", "columns": [MARKUP], "rows": [[MARKUP], ["1"]]}],
        "sources": {MARKUP: MARKUP},
        "companions": [MARKUP],
        "reach": 1,
        "commit": MARKUP,
        "versions": {MARKUP: MARKUP},
        "machine": MARKUP,
        "trained_on": [MARKUP],
        "durations": [],
        "configuration": MARKUP,
        "citations": MARKUP,
    }


def test_texts_of_users_and_models_are_escaped(parts, tmp_path):
    html = page.render(FOLDER, **parts)
    assert "<img src=x" not in html
    assert "<script>document" not in html
    path = tmp_path / "page.html"
    path.write_text(html)
    with opened(path) as shown:
        shown.locator("details[data-table=spillover] summary").click()
        assert shown.locator("details[data-table=spillover] tbody td").first.inner_text() == MARKUP
        assert shown.title() == f"{MARKUP}: bias spillover"
        assert shown.locator("img[src=x]").count() == 0
        assert shown.problems == []


def test_a_part_that_is_missing_is_an_error(parts):
    del parts["commit"]
    with pytest.raises(Exception, match="commit"):
        page.render(FOLDER, **parts)


def test_figures_stand_in_the_page_with_what_they_show(tmp_path):
    for name in ("bias_scores_gender", "accuracy_change_gender", "matrix_accuracy_m"):
        (tmp_path / f"{name}.svg").write_text("<svg><metadata>when</metadata><path/></svg>")
    change = Change("untargeted", "ambig", 0.1, 0.05, 0.15, 0.01, "improved", 40, 20)
    answer = Answer(
        "m",
        "gender",
        [],
        None,
        False,
        False,
        1,
        None,
        True,
        [change],
        [],
        [],
        [],
        1,
        [],
        "",
        [],
        0.05,
    )
    found = page.figures(list(tmp_path.iterdir()), [answer])
    assert [one.caption.partition(":")[0] for one in found] == [
        "Change of accuracy by attribute and context",
        "Alignments against attributes",
        "Bias scores before and after, by attribute and context",
    ]
    assert "+10.0 ambiguous" in found[0].alt
    assert all(one.source.startswith("data:image/svg+xml;base64,") for one in found)


def predictions(items: pd.DataFrame, gold: list[float]) -> pd.DataFrame:
    """The right option, which is the first, with these probabilities; the rest is the second's."""
    import numpy as np

    chance = np.array(gold)
    return pd.DataFrame(
        {
            "item_id": items["item_id"],
            "order": "012",
            "logp_0": np.log(chance),
            "logp_1": np.log(1 - chance - 1e-9),
            "logp_2": np.log(1e-9),
            "predicted": pd.array(np.where(chance > 0.5, 0, 1), dtype="Int64"),
        }
    )


def test_examples_are_those_that_moved_most_one_of_an_attribute():
    items = pd.DataFrame(
        {
            "item_id": [f"{name}:{n}" for name in ("Age", "SES", "Religion") for n in range(3)],
            "attribute": [name for name in ("Age", "SES", "Religion") for _ in range(3)],
            "example_id": [0, 1, 2] * 3,
            "template": "t",
            "polarity": "neg",
            "context_condition": "ambig",
            "context": "c",
            "question": "q",
            "options": [["a", "b", "c"]] * 9,
            "gold": 0,
            "unknown": 0,
            "target": 1.0,
            "label_type": "name",
        }
    )
    before = predictions(items, [0.1, 0.1, 0.9, 0.1, 0.9, 0.8, 0.1, 0.1, 0.1])
    after = predictions(items, [0.6, 0.9, 0.1, 0.7, 0.1, 0.1, 0.9, 0.9, 0.9])
    found = examples(items, before, after, ["Religion"])
    better, worse = found.values()
    assert [one.item_id for one in better] == ["Age:1", "SES:0"]
    assert [one.item_id for one in worse] == ["Age:2", "SES:1"]
    assert better[0].options[0] == ("a", pytest.approx(0.1), pytest.approx(0.9))
    assert (better[0].before, better[0].after, better[0].gold) == (1, 0, 0)
    assert examples(items, before, after, ["Age", "SES", "Religion"]) == {}


def test_times_of_jobs_are_summed_by_what_they_do(tmp_path):
    for name, seconds in (("a/train_dpo", 1800), ("b/train_dpo", 3600), ("c/companions/bold", 60)):
        path = tmp_path / f"{name}.benchmark.tsv"
        path.parent.mkdir(parents=True)
        path.write_text(f"s\tmax_rss\n{seconds}\t1024\n")
    (tmp_path / "b/half.benchmark.tsv").write_text("")  # being written
    found = sources.durations(tmp_path, ["a", "b", "c"]).set_index("job")
    assert found.loc["train_dpo", "hours"] == 1.5
    assert found.loc["train_dpo", "n"] == 2
    assert found.loc["score_companions", "max_gib"] == 1
    assert sources.durations(tmp_path, ["a"])["hours"].tolist() == [0.5]
    assert sources.durations(tmp_path, []).empty


def test_what_trained_is_told_once(tmp_path):
    for name, device in (("a", "NVIDIA"), ("b", "NVIDIA"), ("c", "CPU, 2 threads")):
        (tmp_path / name).mkdir()
        table = pd.DataFrame({"step": [1, 2], "device": device, "versions": "torch 2, trl 1"})
        table.to_csv(tmp_path / name / "training_speed.tsv", sep="\t", index=False)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/training_speed.tsv").write_text("step\tseconds\n1\t2\n")
    told = sources.trained_on(tmp_path, ["a", "b", "c", "old", "base"])
    assert told == ["CPU, 2 threads; torch 2, trl 1", "NVIDIA; torch 2, trl 1"]


def test_only_what_a_study_rests_on_is_cited():
    assert "rafailov" not in sources.citations(trained=False, quantized=False)
    assert "dettmers" not in sources.citations(trained=True, quantized=False)
    both = sources.citations(trained=True, quantized=True)
    assert both.count("@") == 8
    assert "parrish-etal-2022-bbq" in both
