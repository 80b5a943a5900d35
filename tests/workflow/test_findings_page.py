"""The page of a study: right numbers first, only what the study can say, in a real browser."""

import html
import re

import numpy as np
import pandas as pd
import pytest
from browser import opened, violations, visible
from spillover.report.words import points, span

ATTRIBUTES = ["Age", "Gender_identity", "Religion"]


@pytest.fixture(scope="module")
def items(bbq_items):
    return pd.concat(map(bbq_items, ATTRIBUTES), ignore_index=True)


@pytest.fixture(scope="module")
def given(items, tmp_path_factory):
    """Write answers of a run: a share is right; the rest names another option."""
    folder = tmp_path_factory.mktemp("answers")

    def write(name: str, right: float, seed: int, text: str | None = None) -> str:
        rng = np.random.default_rng(seed)
        wrong = (items["gold"] + 1) % 3
        predicted = items["gold"].where(rng.random(len(items)) < right, wrong)
        answers = items[["attribute", "example_id"]].assign(predicted_option=predicted)
        path = folder / f"{name}.csv"
        answers.to_csv(path, index=False)
        return str(path)

    return write


@pytest.fixture(scope="module")
def page_of(shared_workflow, published):
    """Run a study to its page."""

    def run(name: str, models: dict, alignments: dict, **also):
        config = {
            "study": name,
            "bbq": {"type": "path", "path": str(published)},
            "models": models,
            "alignments": alignments,
            "evaluation": {"attributes": ATTRIBUTES},
            "statistics": {"resamples": 200},
        }
        shared_workflow.configure(config | also)
        shared_workflow.run("findings")
        return shared_workflow.folder / "results" / name

    return run


@pytest.fixture(scope="module")
def several(page_of, given):
    """Three models, five seeds, an alignment with its control; in one model others get worse."""
    models = {}
    for model, (after, seed) in {"better": (0.9, 0), "same": (0.6, 1), "worse": (0.3, 2)}.items():
        runs = {"base": given(f"{model}-base", 0.6, 10 * seed)}
        for number in range(5):
            runs[f"gender/seed{number}"] = given(f"{model}-{number}", after, 100 * seed + number)
            runs[f"shuffled/seed{number}"] = given(f"{model}-c{number}", 0.6, 900 + number)
        models[model] = {"predictions": runs}
    alignments = {
        "gender": {"target": ["Gender_identity"], "control": "shuffled"},
        "shuffled": {"target": ["Gender_identity"]},
    }
    return page_of("several", models, alignments, seeds=[0, 1, 2, 3, 4])


def text_of(folder) -> str:
    """The page's text, without tags, styles, scripts."""
    page = (folder / "findings.html").read_text()
    page = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page)))


def test_the_numbers_are_those_of_the_tables(several):
    text = text_of(several)
    table = pd.read_csv(several / "contrasts.tsv", sep="\t")
    pooled = table[(table["attribute"] == "untargeted") & (table["context"] != "both")]
    assert len(pooled) == 6
    for row in pooled.itertuples():
        told = f"({points(row.difference)} points, {span(row.difference_low, row.difference_high)};"
        assert told in text
    verdicts = pooled.set_index(["model", "context"])["verdict"]
    assert verdicts["better"].eq("improved").all()
    assert verdicts["worse"].eq("degraded").all()
    assert "Of 3 alignments of 3 models" in text
    assert "higher than its control's under 1" in text
    assert "lower than its control's under 1" in text
    assert "Changes from the base over 5 seeds" in text
    assert "There is one seed" not in text
    # Made elsewhere: of training, controls and weights nothing is known here.
    assert "Nothing was trained for it here." in text
    assert "is not known here as the same training on shuffled preferences" in text
    for word in ("NF4", "trained on", "rafailov", "dettmers", "held-out items"):
        assert word not in text, word
    assert "answers made elsewhere; sha256" in text
    spillover = pd.read_csv(several / "spillover.tsv", sep="\t")
    own = spillover[spillover["targeted"] & (spillover["alignment"] == "gender")]
    assert own["seeds"].eq(5).all()


def test_the_page_is_made_again_when_its_template_changes_and_nothing_else(
    several, shared_workflow
):
    template = shared_workflow.folder / "workflow/report/findings/page.html.j2"
    assert shared_workflow.planned("findings") == {}
    template.write_text(template.read_text() + "<!-- more -->\n")
    assert shared_workflow.planned("findings") == {"write_findings": 1, "findings": 1}
    shared_workflow.run("findings")


def test_without_alignments_the_page_tells_how_models_answer(page_of, given):
    folder = page_of("bare", {"one": {"predictions": {"base": given("bare", 0.6, 5)}}}, {})
    text = text_of(folder)
    assert "How the models of this study answer" in text
    assert "Nothing was aligned in this study" in text
    assert "spill over" not in text
    assert "dettmers" not in text
    metrics = pd.read_csv(folder / "metrics.tsv", sep="\t")
    row = metrics[(metrics["attribute"] == "Age") & (metrics["label_type"] == "all")].iloc[0]
    assert f"Age ambiguous {100 * row['accuracy']:.0f} %" in re.sub(r"\s+", " ", text).replace(
        "oneAgeambiguous", "Age ambiguous "
    )


def test_aligned_for_nothing_of_the_benchmark(page_of, given):
    runs = {"base": given("none-base", 0.6, 6), "safety/seed0": given("none", 0.7, 7)}
    folder = page_of("safety", {"one": {"predictions": runs}}, {"safety": {"target": []}})
    text = text_of(folder)
    assert "aligned for none of the benchmark's attributes" in text
    assert "On the 3 attributes of the benchmark, accuracy is higher than before" in text
    assert "Without a control it cannot be told" in text
    aggregate = pd.read_csv(folder / "aggregate.tsv", sep="\t")
    rows = aggregate[(aggregate["attributes"] == "all") & (aggregate["label_type"] == "all")]
    for change in rows.loc[rows["context"] != "both", "delta_accuracy"]:
        assert f"({points(change)} points, " in text


def test_it_opens_in_a_browser_without_a_network(several, tmp_path):
    pooled = pd.read_csv(several / "contrasts.tsv", sep="\t").query(
        "attribute == 'untargeted' and context == 'ambig'"
    )
    for scheme in ("light", "dark"):
        with opened(several / "findings.html", scheme=scheme) as page:
            seen = visible(page)
            for row in pooled.itertuples():
                assert points(row.difference) in seen
                assert span(row.difference_low, row.difference_high) in seen
            assert violations(page) == []
            page.screenshot(path=tmp_path / f"{scheme}.png")
            assert page.problems == []
            pictures = page.locator("img, svg[role=img]")
            assert pictures.count() >= 10
            for at in range(pictures.count()):
                one = pictures.nth(at)
                name = one.get_attribute("alt") or one.get_attribute("aria-label")
                assert name
                assert len(name) > 10


def test_tables_are_filtered_and_sorted_by_keyboard(several):
    table = pd.read_csv(several / "spillover.tsv", sep="\t")
    with opened(several / "findings.html") as page:
        details = page.locator("details[data-table=spillover]")
        details.locator("summary").focus()
        page.keyboard.press("Enter")
        assert details.locator("tbody tr").count() == len(table)
        details.locator("input").fill("worse gender religion")
        wanted = table.query(
            "model == 'worse' and attribute == 'Religion' and alignment == 'gender'"
        )
        assert details.locator("tbody tr").count() == len(wanted)
        details.locator("input").fill("")
        column = list(table.columns).index("delta_accuracy")
        button = details.locator("thead th").nth(column).locator("button")
        for ascending in (True, False):
            button.focus()
            page.keyboard.press("Enter")
            cells = details.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
            expected = table["delta_accuracy"].sort_values(ascending=ascending)
            assert np.allclose([float(cell) for cell in cells], expected, atol=1e-3)
        assert details.locator("thead th").nth(column).get_attribute("aria-sort") == "descending"
        assert violations(page) == []
        assert page.problems == []


def test_it_fits_a_phone_and_prints(several, tmp_path):
    with opened(several / "findings.html", width=390, height=844) as page:
        for width in (320, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        page.screenshot(path=tmp_path / "phone.png", full_page=True)
        page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_it_is_the_first_result_of_snakemakes_report(several, shared_workflow):
    shared_workflow.run("--report", "report.html", "findings")
    report = (shared_workflow.folder / "report.html").read_text()
    assert "findings.html" in report
