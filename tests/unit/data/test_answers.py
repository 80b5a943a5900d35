import numpy as np
import pandas as pd
import pytest
from small_bbq import make_items
from spillover.core.errors import InputError
from spillover.data import answers
from spillover.statistics.metrics import metrics

ITEMS = pd.concat([make_items("Age", (2, 2)), make_items("SES", (1,))], ignore_index=True)


def table(**columns):
    return ITEMS[["attribute", "example_id"]].assign(predicted_option="1").assign(**columns)


def read(rows, folder, **options):
    path = folder / "answers.csv"
    if isinstance(rows, str):
        path.write_text(rows)
    else:
        rows.to_csv(path, index=False)
    return answers.read(path, ITEMS, **options)


def test_answers_become_predictions_in_the_order_of_the_items(tmp_path):
    rows = table(predicted_option=ITEMS["gold"], comment="x").sample(frac=1, random_state=0)
    found = read(rows, tmp_path)
    assert found["item_id"].tolist() == ITEMS["item_id"].tolist()
    assert found["predicted"].tolist() == ITEMS["gold"].tolist()
    assert set(found["order"]) == {"012"}
    assert found[["logp_0", "logp_1", "logp_2", "option_mass"]].isna().all(axis=None)
    assert (metrics(ITEMS, found)["accuracy"] == 1).all()


def test_an_empty_option_is_an_unparsed_answer(tmp_path):
    # with a hole in it, pandas writes the column as 1.0, 2.0 and nothing
    options = ITEMS["gold"].astype(float).where(np.arange(len(ITEMS)) != 4)
    assert set(options.dropna()) == {0.0, 1.0, 2.0}
    found = read(table(predicted_option=options), tmp_path)["predicted"]
    assert found.isna().tolist() == [i == 4 for i in range(len(ITEMS))]
    assert found.drop(4).tolist() == ITEMS["gold"].drop(4).tolist()


def test_only_required_items_must_be_answered(tmp_path):
    required = ITEMS[ITEMS["attribute"] == "Age"]
    rows = table()[lambda t: (t["attribute"] == "Age") | (t["example_id"] < 2)]
    assert read(rows, tmp_path, required=required)["item_id"].tolist() == [*required["item_id"]]


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path):
    text = "\ufeff" + table().to_csv(index=False, lineterminator="\r\n")
    (tmp_path / "answers.csv").write_text(text, newline="")
    assert len(answers.read(tmp_path / "answers.csv", ITEMS)) == len(ITEMS)


REFUSED = {
    "missing": (table().iloc[:-3], "each of 20 items, 3 are missing (first: SES:1)"),
    "duplicate": (
        pd.concat([table(), table().iloc[[2, 5]]]),
        "one row an item; found an item again in 2 of 22 rows (first: Age:2)",
    ),
    "unknown id": (
        table(example_id=ITEMS["example_id"].replace(15, 99)),
        "those of the study's 20 items; found no such item in 1 of 20 rows (first: Age:99)",
    ),
    "unknown attribute": (
        table(attribute=ITEMS["attribute"].replace("SES", "Ses")),
        "expected Age, SES; found another name in 4 of 20 rows (first: Ses)",
    ),
    "out of range": (
        table(predicted_option=[3, -1, "B", *[0] * 17]),
        "0, 1, 2 or nothing; found something else in 3 of 20 rows (first: Age:0=3)",
    ),
    "missing column": (
        table().rename(columns={"predicted_option": "answer"}),
        "missing predicted_option, found attribute, example_id, answer",
    ),
    "empty file": ("", "expected a CSV file, could not read it"),
    "not a table": ('a,b\n"x', "expected a CSV file, could not read it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_with_counts(case, tmp_path):
    rows, message = REFUSED[case]
    with pytest.raises(InputError) as refusal:
        read(rows, tmp_path)
    text = str(refusal.value)
    assert message in text
    assert text.startswith(str(tmp_path / "answers.csv"))
    assert "\n" not in text


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: expected a CSV file, found none"):
        answers.read(tmp_path / "nowhere.csv", ITEMS)
