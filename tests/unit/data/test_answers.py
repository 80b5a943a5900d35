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


@pytest.mark.parametrize("nothing", ["NA", "nan", "None", "null", "<NA>", " "])
@pytest.mark.parametrize("number", ["{}", "{}.0", "{},0"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_numbers_nothing_and_separators_are_read_as_programs_write_them(
    separator, number, nothing, tmp_path
):
    options = [number.format(option) for option in ITEMS["gold"]]
    rows = table(
        example_id=ITEMS["example_id"].map(number.format), predicted_option=[nothing, *options[1:]]
    )
    found = read(rows.to_csv(index=False, sep=separator), tmp_path)
    assert found["item_id"].tolist() == ITEMS["item_id"].tolist()
    assert found["predicted"].isna().tolist() == [True] + [False] * 19
    assert found["predicted"].tolist()[1:] == ITEMS["gold"].tolist()[1:]


def test_rows_of_other_sets_are_left_aside_and_counted(tmp_path, caplog):
    others = pd.DataFrame(
        {"attribute": "Race_x_SES", "example_id": range(5), "predicted_option": "0"}
    )
    with caplog.at_level("INFO", "spillover"):
        found = read(pd.concat([others, table()]), tmp_path)
    assert found["item_id"].tolist() == ITEMS["item_id"].tolist()
    assert "20 answers read; left aside: 5 of items that the study does not have" in caplog.text


def test_orders_and_log_probabilities_are_kept_where_a_table_has_them(tmp_path):
    # 012 without its zero, as spreadsheets have it
    rows = pd.concat(
        [
            table(order=order, logp_0=-0.25 - place, logp_1=-3, logp_2=-4, option_mass=0.875)
            for place, order in enumerate(["12", "120", "201"])
        ]
    )
    found = read(rows, tmp_path)
    assert found["item_id"].tolist() == [item for item in ITEMS["item_id"] for _ in range(3)]
    assert found["order"].tolist() == ["012", "120", "201"] * 20
    assert found["logp_0"].tolist() == [-0.25, -1.25, -2.25] * 20
    assert found["option_mass"].eq(0.875).all()


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
        "one row an item and option order; found an item again in 2 of 22 rows (first: Age:2)",
    ),
    "unknown id": (
        table(example_id=ITEMS["example_id"].replace(15, 99)),
        "those of the study's 20 items; found no such item in 1 of 20 rows (first: Age:99)",
    ),
    "unknown attribute": (
        table(attribute=ITEMS["attribute"].replace("SES", "Ses")),
        "Sexual_orientation; found another name in 4 of 20 rows (first: Ses)",
    ),
    "out of range": (
        table(predicted_option=[3, -1, "B", *[0] * 17]),
        "0, 1, 2 or nothing; found something else in 3 of 20 rows (first: Age:0=3)",
    ),
    "missing column": (
        table().rename(columns={"predicted_option": "answer"}),
        "missing predicted_option, found attribute, example_id, answer",
    ),
    "two separators": (
        "attribute,example_id;predicted_option\nAge,0;1",
        "between them comma, semicolon or tab; missing",
    ),
    "empty file": ("", "found nothing"),
    "not a table": (
        'attribute,example_id,predicted_option\n"x',
        "expected a CSV file, could not read it",
    ),
    "cut in its last row": (
        table().to_csv(index=False) + "Age",
        "expected 3 columns; 1 of 21 rows have more or fewer (first: row 21); the file may be cut",
    ),
    "no order": (
        table(order=["012"] * 18 + ["123", "12A"]),
        "in the order shown, such as 120; found something else in 2 of 20 rows (first: SES:2=123)",
    ),
    "probabilities for their logarithms": (
        table(logp_0=-1, logp_1=0.5, logp_2=-2),
        "column logp_1: expected a log-probability, at most 0; found something else in 20 of 20",
    ),
    "a log-probability missing": (
        table(logp_0=-1, logp_1=-1),
        "expected all of logp_0, logp_1, logp_2 or none; found ['logp_0', 'logp_1']",
    ),
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
    with pytest.raises(InputError, match=r"nowhere\.csv: expected a file of answers, found none"):
        answers.read(tmp_path / "nowhere.csv", ITEMS)
