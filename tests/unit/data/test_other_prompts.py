"""Prompts of attributes beside the targets, and texts of the user's."""

import pandas as pd
import pytest
from small_bbq import make_items
from spillover.core.errors import InputError
from spillover.data import other_prompts, samples
from spillover.data import pairs as preference

SPLIT = {"by": "template", "heldout": 0.25, "seed": 0}


def items() -> pd.DataFrame:
    return pd.concat([make_items("Age", (2,) * 8), make_items("SES", (1,) * 8)], ignore_index=True)


@pytest.mark.parametrize("by", ["template", "item"])
def test_an_attribute_is_split_the_same_whatever_stands_beside_it(by):
    split = SPLIT | {"by": by}
    train, heldout = other_prompts.split_each(items(), split)
    assert not set(train["item_id"]) & set(heldout["item_id"])
    assert len(train) + len(heldout) == len(items())
    alone = other_prompts.split_each(make_items("SES", (1,) * 8), split)[1]
    assert heldout.loc[heldout["attribute"] == "SES", "item_id"].tolist() == (
        alone["item_id"].tolist()
    )
    # And as if it were a target.
    target = samples.split_heldout(make_items("SES", (1,) * 8), by, 0.25, 0)[1]
    assert sorted(alone["item_id"]) == sorted(target["item_id"])


def test_prompts_are_those_of_pairs_in_words_of_the_training_side():
    built = other_prompts.build(items(), SPLIT, None, None)
    train, _ = other_prompts.split_each(items(), SPLIT)
    assert built["item_id"].tolist() == train["item_id"].tolist()
    pairs = preference.build_pairs(train, "cloze").set_index("item_id")
    for row in built.itertuples():
        of_item = pairs.loc[row.item_id]
        assert all(prompt == row.prompt for prompt in of_item["prompt"])
        said = {answer[0]["content"] for side in ("chosen", "rejected") for answer in of_item[side]}
        assert said == set(row.replies)
        assert len(row.replies) == 3


def test_so_many_items_at_most_as_whole_blocks_of_all_attributes():
    built = other_prompts.build(items(), SPLIT, None, 18)
    assert len(built) == 16
    blocks = items().set_index("item_id").loc[built["item_id"]].groupby(["attribute", "block"])
    assert blocks.size().eq(4).all()


def test_excluded_groups_are_on_neither_side():
    marked = items()
    marked["groups"] = [
        ["mark", "b", "unknown"] if block % 4 == 1 else ["a", "b", "unknown"]
        for block in marked["block"]
    ]
    for side in other_prompts.split_each(marked, SPLIT, "^mark"):
        assert not (side["block"] % 4 == 1).any()
    marked = marked[(marked["attribute"] == "Age") | (marked["block"] % 4 == 1)]
    with pytest.raises(InputError, match="exclude_groups: of SES no item is left"):
        other_prompts.split_each(marked, SPLIT, "^mark")


def test_texts_are_lines_and_empty_ones_are_passed_over(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes("Größe\n\n  a text  \r\nlast".encode())
    table = other_prompts.read_texts(file)
    assert table["text"].tolist() == ["Größe", "a text", "last"]
    assert table["item_id"].iloc[1] == f"line 3 of {file}"
    file.write_bytes(b"\n \n")
    with pytest.raises(InputError, match="expected a text a line, found none"):
        other_prompts.read_texts(file)
    file.write_bytes("Größe".encode("latin-1"))
    with pytest.raises(InputError, match="expected UTF-8") as error:
        other_prompts.read_texts(file)
    assert "\n" not in str(error.value)
