import pandas as pd
import pytest
from spillover.data import bbq, pairs
from spillover.data.prompts import LETTERS


@pytest.fixture(scope="module")
def gender(bbq_items):
    items = bbq.exclude_groups(bbq_items("Gender_identity"), "^(trans|nonTrans)")
    return bbq.split_heldout(items, "item", 0.2, 0)


def shown(prompt) -> dict[str, str]:
    """Options by letter, read off the page."""
    lines = prompt[0]["content"].splitlines()
    return {line[0]: line[3:] for line in lines if line[1:3] == ". " and line[0] in LETTERS}


def test_the_papers_pairs_are_7694(gender):
    assert len(pairs.build_pairs(gender[0], "two_option")) == 7694


@pytest.mark.parametrize(("format", "n_options"), [("three_option", 3), ("two_option", 2)])
def test_chosen_is_the_correct_answer_and_rejected_each_other(gender, format, n_options):
    items = gender[0].head(400).set_index("item_id")
    made = pairs.build_pairs(items.reset_index(), format)
    for item_id, of_item in made.groupby("item_id"):
        item = items.loc[item_id]
        options = [shown(prompt) for prompt in of_item["prompt"]]
        assert all(len(page) == n_options for page in options)
        chosen = [page[c[0]["content"]] for page, c in zip(options, of_item["chosen"], strict=True)]
        rejected = [
            page[r[0]["content"]] for page, r in zip(options, of_item["rejected"], strict=True)
        ]
        gold = item["options"][item["gold"]]
        assert chosen == [gold, gold]
        assert sorted(rejected) == sorted(o for o in item["options"] if o != gold)


@pytest.mark.parametrize("format", ["three_option", "two_option"])
def test_no_letter_is_right_more_often(gender, format):
    train, heldout = gender
    manifest = pairs.manifest(train, pairs.build_pairs(train, format), heldout)
    for counts in (
        manifest["pairs_by_gold_letter"],
        *by_group(manifest["pairs_by_context_and_gold_letter"]),
        *by_group(manifest["pairs_by_polarity_and_gold_letter"]),
    ):
        # two pairs an item, to within an item in each of the combinations
        assert max(counts.values()) - min(counts.values()) <= 4


def by_group(counts: dict[str, int]) -> list[dict[str, int]]:
    groups: dict[str, dict[str, int]] = {}
    for key, n in counts.items():
        group, letter = key.split()
        groups.setdefault(group, {})[letter] = n
    return list(groups.values())


def test_the_manifest_says_when_templates_are_shared(gender):
    train, heldout = gender
    made = pairs.build_pairs(train, "three_option", max_items=100)
    manifest = pairs.manifest(pd.concat([train, heldout]), made, heldout)
    assert manifest["n_pairs"] == 2 * manifest["n_items"]
    assert manifest["n_items"] <= 100
    assert manifest["n_templates_in_both"] > 0


def test_pairs_depend_on_the_seed_and_nothing_else(gender):
    train = gender[0].head(200)
    first = pairs.manifest(train, pairs.build_pairs(train, "three_option", seed=1), gender[1])
    again = pairs.manifest(train, pairs.build_pairs(train, "three_option", seed=1), gender[1])
    other = pairs.manifest(train, pairs.build_pairs(train, "three_option", seed=2), gender[1])
    assert first["sha256"] == again["sha256"] != other["sha256"]
