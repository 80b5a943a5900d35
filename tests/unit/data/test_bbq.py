import json

import pandas as pd
import pytest
from spillover.core.errors import InputError
from spillover.data import bbq, samples


def test_the_nine_attributes_have_the_published_counts(bbq_items, nine_attributes):
    items = pd.concat(map(bbq_items, nine_attributes))
    assert len(items) == 31372
    assert items["item_id"].is_unique
    assert items["template"].nunique() == 275
    assert items.groupby("attribute")["block"].nunique().sum() == 7843


@pytest.mark.parametrize("attribute", ["Race_x_SES", "Race_x_gender"])
def test_the_intersectional_sets_are_prepared_too(bbq_items, pins, attribute):
    items = bbq_items(attribute)
    assert len(items) == pins["attributes"][attribute]["items"]
    assert items["target"].notna().all()


def test_duplicated_metadata_rows_do_not_multiply_items(bbq_items):
    items = bbq_items("Gender_identity")
    assert items["label_type"].value_counts().to_dict() == {"name": 5000, "label": 672}


def test_sixteen_items_have_no_target_and_stay(bbq_items):
    items = bbq_items("Gender_identity")
    null = items.loc[items["target"].isna(), "example_id"]
    assert list(null) == [*range(284, 288), *range(300, 308), *range(320, 324)]


def test_targets_flip_between_polarities(bbq_items):
    items = bbq_items("Age")
    target = items.pivot_table("target", "block", ["context_condition", "polarity"])
    assert (target["ambig", "neg"] != target["ambig", "nonneg"]).all()


@pytest.fixture
def small(bbq_files):
    """The first two blocks of Age as published, to be spoilt."""
    lines = bbq_files["Age.jsonl"].decode().splitlines()[:8]
    return [json.loads(line) for line in lines]


def prepare(rows, bbq_files):
    data = "\n".join(map(json.dumps, rows)).encode()
    pin = {"items": 8, "templates": 1}
    return bbq.prepare_items(data, bbq_files["additional_metadata.csv"], "Age", pin)


def test_two_whole_blocks_pass(small, bbq_files):
    assert prepare(small, bbq_files)["block"].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.pop(), "8 items"),
        (lambda rows: rows[3].update(example_id=2), "each once"),
        (lambda rows: rows[0].update(label=0), "gold = unknown in ambiguous"),
        (lambda rows: rows[1].update(context="Elsewhere."), "begin the disambiguated"),
        (lambda rows: rows[1].update(question_polarity="nonneg"), "blocks of"),
        (lambda rows: rows[1].update(ans0="Somebody"), "one list of options"),
        (lambda rows: rows[0]["answer_info"]["ans0"].append("unknown"), "one unknown option"),
        (lambda rows: rows[0].update(question_index="99"), "1 templates"),
    ],
)
def test_data_that_break_a_fact_are_refused(small, bbq_files, spoil, message):
    spoil(small)
    with pytest.raises(InputError, match=message):
        prepare(small, bbq_files)


def test_a_truncated_file_is_refused_by_its_hash(bbq_files, pins):
    expected = pins["attributes"]["Religion"]["sha256"]
    data = bbq_files["Religion.jsonl"]
    assert bbq.checked("Religion.jsonl", data, expected) == data
    assert bbq.checked("Religion.jsonl", data.replace(b"\n", b"\r\n"), expected) == data
    with pytest.raises(InputError, match=r"Religion.jsonl: not the published .* truncated"):
        bbq.checked("Religion.jsonl", data[:-100], expected)


def test_a_folder_without_a_file_is_refused(tmp_path, pins):
    with pytest.raises(InputError, match=r"expected Age\.jsonl in it"):
        bbq.read_folder(tmp_path, pins)


def test_a_clone_with_its_own_layout_is_read(bbq_files, pins, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "supplemental").mkdir()
    for name in bbq.file_names(pins):
        place = "supplemental" if name.endswith(".csv") else "data"
        (tmp_path / place / name).write_bytes(bbq_files[name].replace(b"\n", b"\r\n"))
    files = bbq.read_folder(tmp_path, pins)
    assert files["Age.jsonl"] == bbq_files["Age.jsonl"]


def test_samples_are_whole_blocks_spread_over_templates_and_nested(bbq_items):
    items = bbq_items("SES")
    small, large = samples.spread_blocks(items, 30), samples.spread_blocks(items, 60)
    assert small.groupby("block").size().eq(4).all()
    assert small["block"].nunique() == 30
    assert small["template"].nunique() == 25
    assert small.groupby("template")["block"].nunique().max() == 2
    assert set(small["item_id"]) < set(large["item_id"])
    assert samples.spread_blocks(items, None) is items


def test_gender_without_transgender_items_is_the_papers(bbq_items):
    kept = samples.exclude_groups(bbq_items("Gender_identity"), "^(trans|nonTrans)")
    assert len(kept) == 5672 - 864
    train, heldout = samples.split_heldout(kept, "item", 0.2, 0)
    assert (len(train), len(heldout)) == (3847, 961)
    assert not set(train["item_id"]) & set(heldout["item_id"])


def test_held_out_templates_share_no_template_with_training(bbq_items):
    train, heldout = samples.split_heldout(bbq_items("Gender_identity"), "template", 0.2, 0)
    assert not set(train["template"]) & set(heldout["template"])
    assert heldout["template"].nunique() == 10
    assert set(heldout["label_type"]) == {"label", "name"}


@pytest.mark.parametrize(
    ("by", "share"), [("template", 0.001), ("template", 0.999), ("item", 0.001), ("item", 1.0)]
)
def test_a_share_that_leaves_no_items_is_refused(bbq_items, by, share):
    items = bbq_items("Religion").groupby("template").head(4).head(12)
    with pytest.raises(InputError, match=r"split\.heldout"):
        samples.split_heldout(items, by, share, 0)


def test_each_targeted_attribute_needs_items_on_both_sides(bbq_items):
    # one template of Age is none to hold out, however many Religion has
    age = bbq_items("Age")
    items = pd.concat([age[age["template"] == age["template"].iloc[0]], bbq_items("Religion")])
    with pytest.raises(InputError, match=r"split\.heldout: .* of Age"):
        samples.split_heldout(items, "template", 0.2, 0)


def test_blocks_of_two_attributes_with_one_number_are_two_blocks(bbq_items):
    items = pd.concat([bbq_items("Age"), bbq_items("Religion")], ignore_index=True)
    sample = samples.spread_blocks(items, 60)
    assert len(sample) == 240
    assert sample.groupby(["attribute", "block"]).size().eq(4).all()
    assert sample["template"].nunique() == 50


def test_targeted_attributes_are_evaluated_on_held_out_items_only(bbq_items):
    items = bbq_items("Gender_identity")
    train, heldout = samples.split_heldout(items, "template", 0.2, 0)
    _, other = samples.split_heldout(items, "template", 0.2, 1)
    aligned = samples.evaluated_items(items, [heldout], 20)
    base = samples.evaluated_items(items, [heldout, other], 20)
    assert aligned["block"].nunique() == 20
    assert not set(aligned["item_id"]) & set(train["item_id"])
    assert set(aligned["item_id"]) < set(base["item_id"])


def test_what_several_held_out_is_common_to_those_that_touched_an_attribute():
    one, other = (
        pd.DataFrame({"item_id": ids})
        for ids in (["Age:1", "Age:2", "SES:1"], ["Age:2", "Age:3", "Religion:7"])
    )
    common = samples.heldout_by_all([one, other])
    assert common["item_id"].tolist() == ["Age:2", "SES:1", "Religion:7"]
    assert samples.heldout_by_all([one])["item_id"].tolist() == one["item_id"].tolist()
    assert (
        samples.heldout_by_all([one, one.iloc[:0]])["item_id"].tolist() == one["item_id"].tolist()
    )
    with pytest.raises(InputError, match="no item of Age was held out by all 2"):
        samples.heldout_by_all([one.iloc[:1], other.iloc[1:]])
