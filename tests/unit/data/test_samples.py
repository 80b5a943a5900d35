"""Which items are asked: each run its own sample, the base all that any run needs."""

import json

import pandas as pd
import pytest
from small_bbq import make_items
from spillover.core.errors import InputError
from spillover.data import samples
from spillover.data.item_ids import read_item_ids

AGE, SES = make_items("Age", (3, 3, 3, 3)), make_items("SES", (3, 3, 3, 3))
ITEMS = pd.concat([AGE, SES], ignore_index=True)
HELDOUT = {
    "of-age": AGE.iloc[24:][["item_id"]],
    "of-ses": SES.iloc[:24][["item_id"]],
    "elsewhere": AGE.iloc[:0][["item_id"]],
}


@pytest.mark.parametrize("n_blocks", [None, 2, 100])
def test_the_base_answers_whatever_a_run_is_asked(n_blocks):
    """Also where one alignment targets what another does not, or what none is known of."""
    base = samples.asked_items(ITEMS, samples.heldout_for("base", HELDOUT), n_blocks)
    assert not base["item_id"].duplicated().any()
    for name, held in HELDOUT.items():
        of_run = samples.heldout_for(f"{name}/seed0", HELDOUT)
        asked = samples.asked_items(ITEMS, of_run, n_blocks)
        assert set(asked["item_id"]) <= set(base["item_id"])
        assert set(asked["attribute"]) == {"Age", "SES"}
        targeted = asked[asked["attribute"].isin(held["item_id"].str.split(":").str[0])]
        assert set(targeted["item_id"]) <= set(held["item_id"])


def test_without_alignments_a_sample_of_all_is_asked():
    assert len(samples.asked_items(ITEMS, [], 2)) == 16
    assert len(samples.asked_items(ITEMS, [], None)) == 96


def test_what_was_trained_on_elsewhere_is_held_back():
    held = samples.heldout_elsewhere(AGE, AGE["item_id"].iloc[:40])
    assert held["item_id"].tolist() == AGE["item_id"].iloc[40:].tolist()
    assert len(samples.heldout_elsewhere(AGE, [])) == 48
    with pytest.raises(InputError, match="of Age none is left"):
        samples.heldout_elsewhere(AGE, [], "nonOld")
    with pytest.raises(InputError, match=r"1 of its 2 items .* \(first: SES:0\)"):
        samples.heldout_elsewhere(AGE, ["Age:0", "SES:0"])
    with pytest.raises(InputError, match="of Age none is left"):
        samples.heldout_elsewhere(AGE, AGE["item_id"])


def test_ids_are_read_from_what_people_have(tmp_path):
    ids = ["Age:0", "Age:5"]
    (tmp_path / "ids.txt").write_text("Age:0\n\nAge:5\n")
    (tmp_path / "ids.csv").write_text("\ufeffitem_id,note\nAge:0,x\nAge:5,\n")
    (tmp_path / "manifest.json").write_text(json.dumps({"items": ids, "n_items": 2}))
    pd.DataFrame({"item_id": ids, "prompt": "x"}).to_parquet(tmp_path / "train.parquet")
    for file in tmp_path.iterdir():
        assert read_item_ids(file) == ids, file.name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ids.txt", "", "expected ids of items"),
        ("ids.txt", "12\n13\n", "expected ids of items such as Age:12, found '12'"),
        ("manifest.json", '{"n_items": 3}', "a manifest.json with items; could not read"),
        ("train.parquet", "not one", "could not read it as such"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_item_ids(tmp_path / name)
