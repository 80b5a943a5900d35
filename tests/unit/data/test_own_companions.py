"""Companion sets of a study's own: files and data sets of the hub, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hub_server import COMMIT, Hub
from spillover.core.errors import InputError
from spillover.data import companions, own_companions

SCRIPTS = Path(__file__).parents[3] / "workflow" / "scripts"
QUESTIONS = {"question": "stem", "options": "choices.text", "gold": "answer"}


@pytest.fixture
def file(tmp_path):
    """Two questions as ARC has them."""
    path = tmp_path / "mine.jsonl"
    rows = [
        {
            "stem": "Which?",
            "choices": {"text": ["one", "two "], "label": ["A", "B"]},
            "answer": "B",
        },
        {
            "stem": "What?",
            "choices": {"text": ["2", "1", "3"], "label": ["A", "B", "C"]},
            "answer": "C",
        },
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(own: dict) -> pd.DataFrame:
    rows = own_companions.items("companions.own.mine", own, own_companions.fetch("key", own))
    return companions.complete("mine", rows)


def test_questions_are_read_by_the_columns_that_are_named(file):
    items = read(QUESTIONS | {"path": file})
    assert list(items) == companions.COLUMNS
    assert items["item_id"].tolist() == ["mine:0", "mine:1"]
    assert items["options"].tolist() == [["one", "two"], ["2", "1", "3"]]
    assert items["gold"].tolist() == [1, 2]
    assert items["cluster"].tolist() == ["0", "1"]
    asked = own_companions.set_of("mine", {"mine": QUESTIONS})
    assert (asked.kind, asked.letters, asked.chat) == ("ability", 4, True)
    assert own_companions.set_of("piqa", {}) is companions.SETS["piqa"]


def test_labels_say_which_option_is_right(file, tmp_path):
    """ARC's are A to D, and 1 to 4 in some."""
    own = QUESTIONS | {"labels": "choices.label"}
    assert read(own | {"path": file, "gold": "answer"})["gold"].tolist() == [1, 2]
    path = tmp_path / "numbered.jsonl"
    row = {"stem": "Which?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}}
    path.write_text(json.dumps(row | {"answer": "two"}))
    assert read(QUESTIONS | {"path": str(path)})["gold"].tolist() == [1]
    path.write_text(json.dumps(row | {"answer": "2"}))
    assert read(own | {"path": str(path)})["gold"].tolist() == [1]
    with pytest.raises(InputError, match=r"expected one of A, B, found '2'; .* column: labels"):
        read(QUESTIONS | {"path": str(path)})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("", "mine: expected rows, found none"),
        ('{"stem": null, "choices": {"text": ["a", "b"]}, "answer": "A"}', "question: row 0: exp"),
        ('{"stem": "Q", "choices": {"text": ["a", " "]}, "answer": "A"}', "options: row 0: expec"),
        ('{"stem": "Q", "choices": {"text": ["a", "a"]}, "answer": "A"}', "options that differ"),
    ],
)
def test_rows_without_texts_are_refused(tmp_path, row, said):
    path = tmp_path / "mine.jsonl"
    path.write_text(row)
    with pytest.raises(InputError, match=said):
        read(QUESTIONS | {"path": str(path)})


def test_texts_and_options_in_columns(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("who,said,a,b,right\nann,hello,1,2,1\nann,bye,1,2,0\n")
    items = read({"path": str(path), "text": "said", "cluster": "who"})
    assert items["options"].tolist() == [["hello"], ["bye"]]
    assert items["cluster"].tolist() == ["ann", "ann"]
    assert items["gold"].isna().all()
    assert not own_companions.set_of("mine", {"mine": {"text": "said"}}).chat
    # A number is an option's index, though the options are numbers too.
    items = read({"path": str(path), "question": "said", "options": ["a", "b"], "gold": "right"})
    assert items["gold"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"question": "stm"}, "mine.question: expected of stem, choices, answer; found 'stm'"),
        ({"options": "choices.txt"}, "mine.options: choices has no 'txt' in every row"),
        ({"letters": 2}, r"mine.options: expected 2 to 2 an item \(letters\), found 2 to 3"),
        ({"gold": "stem"}, "mine.gold: row 0: expected one of A, B, found 'WHICH[?]'; if options"),
        ({"labels": "choices.text"}, "mine.gold: row 0: expected one of one, two, found 'B'$"),
    ],
)
def test_columns_that_do_not_fit_are_told(file, own, said):
    with pytest.raises(InputError, match=said):
        read(QUESTIONS | {"path": file} | own)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "expected repo, a data set of the hub, or path"),
        ({"repo": "a/b", "path": "c.csv"}, "expected repo"),
        (
            {"path": "c.txt", "text": "t"},
            "path: expected .jsonl, .json, .csv, .parquet, found c.txt",
        ),
        ({"path": "c.csv", "text": "t", "split": "test"}, "split: goes with repo, not with path"),
        ({"path": "c.csv"}, "expected text, the column of running text, or question"),
        ({"path": "c.csv", "text": "t", "gold": "g"}, "expected text"),
        ({"path": "c.csv", "question": "q", "gold": "g"}, "questions go with the key 'options'"),
    ],
)
def test_what_is_no_set_is_refused_at_the_start(own, said):
    with pytest.raises(InputError, match=said):
        own_companions.check("companions.own.mine", own)


def test_without_a_network_the_hub_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        own_companions.fetch("companions.own.arc", {"repo": "nobody/has-this", "text": "t"})
    assert str(error.value).startswith("companions.own.arc: nobody/has-this cannot be had: ")
    assert "\n" not in str(error.value)


ON_THE_HUB = """
import json, sys
from spillover.data import own_companions
own = json.loads(sys.argv[1])
items = own_companions.items("arc", own, own_companions.fetch("arc", own))
print(items[["question", "options", "gold"]].to_json(orient="records"))
"""


def test_a_data_set_of_the_hub_is_read_at_its_revision(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    parts = {
        "configs": [
            {"config_name": "easy", "data_files": [{"split": "test", "path": "easy.jsonl"}]}
        ]
    }
    (folder / "README.md").write_text(f"---\n{json.dumps(parts)}\n---\n")
    row = {"q": "Is it?", "choices": {"text": ["yes", "no"], "label": ["A", "B"]}, "key": "B"}
    (folder / "easy.jsonl").write_text(json.dumps(row))
    own = {
        "repo": "some/data",
        "name": "easy",
        "revision": COMMIT,
        "question": "q",
        "options": "choices.text",
        "labels": "choices.label",
        "gold": "key",
    }
    hub = Hub(folder)
    environment = {
        "PYTHONPATH": str(SCRIPTS),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }

    def read(own: dict) -> subprocess.CompletedProcess:
        """In a process of its own: the hub's client reads its environment when imported."""
        return subprocess.run(
            [sys.executable, "-c", ON_THE_HUB, json.dumps(own)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    done = read(own)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"question": "Is it?", "options": ["yes", "no"], "gold": 1}]
    assert "examples" not in done.stderr  # no progress bar in a job's log
    other = read(own | {"revision": COMMIT[::-1]})
    assert other.returncode != 0
    assert "arc: some/data cannot be had: " in other.stderr
    hub.shutdown()
    hub.server_close()
