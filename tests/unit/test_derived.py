"""What derived alignments inherit, and which are refused."""

import pytest
from spillover import arms, derived, series
from spillover.core.errors import InputError


def config(**alignments: dict) -> dict:
    trained = {
        "target": ["Age"],
        "exclude_groups": None,
        "split": {"heldout": 0.2, "by": "template"},
        "pairs": {"max_items": 128, "format": "cloze"},
        "lora": {"r": 16, "target_modules": "all-linear"},
        "objective": {"anchor": None, "replay": None},
        "training": {"epochs": 1},
        "control": None,
        "trained_on": None,
    }
    rest = {key: trained[key] for key in ("objective", "control", "lora", "pairs")}
    given = {
        name: (rest | alignment if "derive" in alignment else trained | alignment)
        for name, alignment in alignments.items()
    }
    return {
        "alignments": given,
        "evaluation": {"attributes": ["Age", "SES", "Religion"], "checkpoints": []},
    }


def derive(**settings) -> dict:
    return {"derive": settings}


def test_targets_are_those_of_the_sources_wherever_they_stand():
    study = config(
        cut=derive(truncate_rank=2, **{"from": "merged"}),
        merged=derive(merge=["age", "ses"], method="cat"),
        age={},
        ses={"target": ["SES", "Age"], "exclude_groups": "x"},
    )
    derived.inherit(study)
    alignments = study["alignments"]
    assert alignments["cut"]["target"] == alignments["merged"]["target"] == ["Age", "SES"]
    assert alignments["merged"]["exclude_groups"] is None
    assert derived.origins(study, "cut") == ["age", "ses"]
    assert derived.origins(study, "age") == ["age"]
    assert derived.sources(alignments["age"]) == []


def test_a_strength_computes_with_the_adapter_of_its_source():
    study = config(half=derive(strength=0.5, **{"from": "age"}), age={})
    assert derived.with_adapter(study, "half") == "age"
    assert derived.with_adapter(study, "age") == "age"
    assert not derived.has_own_adapter(study["alignments"]["half"])


@pytest.mark.parametrize(
    ("alignments", "said"),
    [
        ({"a": derive(strength=1, **{"from": "b"})}, "derive.from: expected another alignment"),
        (
            {
                "a": derive(truncate_rank=1, **{"from": "b"}),
                "b": derive(truncate_rank=1, **{"from": "a"}),
            },
            "made of itself",
        ),
        (
            {
                "a": derive(truncate_rank=1, **{"from": "b"}),
                "b": derive(strength=1, **{"from": "age"}),
                "age": {},
            },
            "b is a strength",
        ),
        (
            {
                "a": derive(merge=["whole"], method="cat"),
                "whole": {"checkpoint": {}},
            },
            "derive.merge: expected an alignment with an adapter; whole is a whole model",
        ),
    ],
)
def test_what_has_no_adapter_to_take_is_refused(alignments, said):
    with pytest.raises(InputError, match=said):
        derived.inherit(config(**alignments))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "expected one of strength, truncate_rank, merge, found none"),
        ({"strength": 1, "truncate_rank": 2, "from": "a"}, "found strength and truncate_rank"),
        ({"strength": 1}, "goes with the key 'from'"),
        ({"merge": ["a"]}, "goes with the key 'method'"),
        ({"strength": 1, "from": "a", "density": 0.5}, "density: does not go with strength"),
        ({"merge": ["a", "b"], "method": "cat", "weights": [1]}, "weights: expected 2"),
        ({"merge": ["a", "b"], "method": "cat", "density": 0.5}, "density: goes with ties"),
        ({"merge": ["a"], "method": "ties", "density": 0.5}, "density: of a single adapter"),
    ],
)
def test_a_way_to_derive_comes_with_its_own_settings(settings, said):
    with pytest.raises(InputError, match=said):
        derived.check_way("x", {"derive": settings})
    with pytest.raises(InputError, match="target: a derived alignment takes it over"):
        derived.check_way("x", {"derive": {"strength": 1, "from": "a"}, "target": ["Age"]})


def test_merged_adapters_must_be_alike_as_far_as_that_is_known():
    def study(method: str, **other: dict) -> dict:
        return config(
            merged=derive(merge=["age", "cut"], method=method),
            age={},
            cut=derive(truncate_rank=4, **{"from": "age"}),
            **other,
        )

    with pytest.raises(InputError, match=r"merge: ties expects .* rank, found age: 16, cut: 4"):
        derived.inherit(study("ties"))
    derived.inherit(study("cat"))
    fetched = {"adapter": {}, "target": [], "exclude_groups": None, "split": {}}
    elsewhere = study("cat", theirs=fetched, both=derive(merge=["age", "theirs"], method="ties"))
    derived.inherit(elsewhere)
    assert elsewhere["alignments"]["both"]["target"] == ["Age"]


def test_copies_of_an_alignment_are_one_point_of_a_series():
    study = config(
        small={"pairs": {"max_items": 64, "format": "cloze"}},
        first={"control": "a"},
        second={"control": "b"},
        whole=derive(strength=1.0, **{"from": "first"}),
        half=derive(strength=0.5, **{"from": "first"}),
    )
    derived.inherit(study)
    at = {one["along"]: [p["at"] for p in one["points"]] for one in series.series_of(study)}
    assert at == {"items": [64, 128], "strength": [0.5, 1.0]}
    del study["alignments"]["small"]
    assert [one["along"] for one in series.series_of(study)] == ["strength"]


def test_series_are_found_by_what_alignments_differ_in():
    study = config(
        small={"pairs": {"max_items": 64, "format": "cloze"}},
        large={},
        other={"training": {"epochs": 2}},
        half=derive(strength=0.5, **{"from": "large"}),
        cut=derive(truncate_rank=4, **{"from": "large"}),
    )
    derived.inherit(study)
    study["evaluation"]["checkpoints"] = [0.5]
    found = {(one["along"], one["of"]): one["points"] for one in series.series_of(study)}
    assert {key: [p["at"] for p in points] for key, points in found.items()} == {
        ("training", "small"): [0.5, 1],
        ("training", "large"): [0.5, 1],
        ("training", "other"): [0.5, 1],
        ("items", "large"): [64, 128],
        ("strength", "large"): [0.5, 1],
        ("rank", "large"): [4, 16],
    }
    assert found[("training", "large")][0] == {"at": 0.5, "alignment": "large", "share": "0.50"}


def test_arms_are_judged_by_what_none_was_trained_on():
    study = config(
        plain={},
        mixed={"target": ["Age", "SES"]},
        half=derive(strength=0.5, **{"from": "mixed"}),
    )
    derived.inherit(study)
    study["ranking"] = {"reference": "plain"}
    arms.check(study)
    assert arms.arms_of(study) == ["plain", "mixed", "half"]
    assert arms.judged(study) == ["Religion"]
    study["alignments"]["mixed"]["objective"] = {
        "anchor": {"attributes": ["Religion"]},
        "replay": None,
    }
    with pytest.raises(InputError, match="none is left to judge"):
        arms.check(study)
    study["alignments"]["mixed"]["objective"] = {"anchor": None, "replay": None}
    study["alignments"]["mixed"]["exclude_groups"] = "x"
    with pytest.raises(InputError, match=r"exclude_groups of plain .* mixed has others"):
        arms.check(study)
    study["alignments"]["plain"]["split"] = {"heldout": 0.2, "by": "item"}
    with pytest.raises(InputError, match=r"plain has split\.by: item"):
        arms.check(study)
    study["ranking"] = {"reference": "nobody"}
    with pytest.raises(InputError, match="reference: expected of plain"):
        arms.check(study)
    study["ranking"] = {"reference": "mixed", "arms": ["plain"]}
    with pytest.raises(InputError, match="plain does not target Age, SES"):
        arms.check(study)
