import pandas as pd
import pytest
from small_bbq import make_items, oracle, several
from spillover.statistics.transitions import transitions

pytestmark = pytest.mark.filterwarnings("error")  # undefined is NaN, without a fuss


def test_transitions_tell_what_became_of_the_answers():
    items = make_items(blocks=(2,) * 4)
    table = transitions(
        items,
        oracle("biased", items),
        {0: oracle("unknown", items), 1: oracle("unparsable", items)},
    )
    assert len(table) == 2 * 25
    table = table.set_index(["context", "before", "after"])["items"]
    moved = table[table > 0].to_dict()
    assert moved == pytest.approx(
        {
            ("ambig", "target", "gold"): 8,
            ("ambig", "target", "unparsed"): 8,
            ("disambig", "gold", "unknown"): 4,
            ("disambig", "gold", "unparsed"): 4,
            ("disambig", "target", "unknown"): 4,
            ("disambig", "target", "unparsed"): 4,
        }
    )


def test_every_answer_is_in_one_state():
    items, base, aligned = several()
    items.loc[items.index < 12, "target"] = pd.NA
    table = transitions(items, base, aligned)
    share = table.groupby(["attribute", "context"])["share"].sum()
    assert share.tolist() == pytest.approx([1] * 4)
    counts = items.groupby(["attribute", "context_condition"]).size()
    found = table.groupby(["attribute", "context"])["items"].sum()
    assert found.tolist() == pytest.approx(counts.tolist())
    other = table[(table["before"] == "other") | (table["after"] == "other")]
    assert set(other["attribute"]) == {"Age"}
