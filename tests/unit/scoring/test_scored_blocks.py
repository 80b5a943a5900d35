"""Partial results: a killed job goes on and ends with the same bits."""

import json
import multiprocessing
import time

import pandas as pd
import pytest
import torch
from made_items import make_items
from spillover.models.load import load_model, load_tokenizer
from spillover.scoring import engine, scored_blocks
from spillover.scoring.score import score


class Killed(BaseException):
    """Ends a job as a signal does: nothing catches it."""


def interrupt_after(monkeypatch, n_chunks):
    add = scored_blocks.ScoredBlocks.add
    left = iter(range(n_chunks))

    def stop(self, blocks):
        if next(left, None) is None:
            raise Killed
        add(self, blocks)

    monkeypatch.setattr(scored_blocks.ScoredBlocks, "add", stop)


SMALL = {"tokens_per_batch": 64, "fingerprint": "f"}


def test_a_killed_job_goes_on_and_ends_with_the_same_bits(llama, tmp_path, monkeypatch):
    items = make_items(12)
    expected = score(items, *llama, **SMALL)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(Killed):
            score(items, *llama, partial=tmp_path / "partial", **SMALL)
    # killed while writing: half a line at the end
    with (tmp_path / "partial" / "blocks.jsonl").open("ab") as lines:
        lines.write(b'{"block": "Made:11", "ro')
    run = engine.Engine.log_probabilities
    scored = []
    monkeypatch.setattr(
        engine.Engine,
        "log_probabilities",
        lambda self, blocks: scored.extend(blocks) or run(self, blocks),
    )
    found = score(items, *llama, partial=tmp_path / "partial", **SMALL)
    assert 0 < len(scored) < 12
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    scored.clear()
    again = score(items, *llama, partial=tmp_path / "partial", **SMALL)
    assert scored == []
    pd.testing.assert_frame_equal(again, expected, check_exact=True)


def score_in_a_process(folder, partial):
    torch.set_num_threads(1)
    model, tokenizer = load_model(folder, "none", "float32", "cpu"), load_tokenizer(folder)
    score(make_items(100), model, tokenizer, partial=partial, **SMALL)


def test_a_job_killed_by_a_signal_loses_little_and_ends_with_the_same_bits(tmp_path, tiny_folder):
    folder = tiny_folder("llama")
    process = multiprocessing.get_context("spawn").Process(
        target=score_in_a_process, args=(folder, tmp_path / "partial")
    )
    process.start()
    file = tmp_path / "partial" / "blocks.jsonl"
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") > 10):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    kept = file.read_bytes().count(b"\n") - 1
    assert 10 <= kept < 100  # it was killed under way
    loaded = load_model(folder, "none", "float32", "cpu"), load_tokenizer(folder)
    undisturbed = score(make_items(100), *loaded, **SMALL)
    found = score(make_items(100), *loaded, partial=tmp_path / "partial", **SMALL)
    pd.testing.assert_frame_equal(found, undisturbed, check_exact=True)
    # What was kept was used, and not made anew: its lines are the first in the file still.
    lines = file.read_bytes().splitlines()
    assert len({json.loads(line)["block"] for line in lines[1:]}) == len(lines) - 1 == 100


@pytest.mark.parametrize("mode", ["letter", "cloze", "generate"])
def test_picked_up_rows_equal_computed_ones(llama, tmp_path, mode):
    settings = {"scoring": mode, "partial": tmp_path, "generate": {"max_new_tokens": 3}}
    first = score(make_items(2), *llama, **settings)
    second = score(make_items(2), *llama, **settings)
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_partial_results_of_another_fingerprint_are_dropped(tmp_path):
    rows = [{"item_id": "Made:0", "logp_0": 0.1}]
    kept = scored_blocks.ScoredBlocks(tmp_path, "one")
    kept.add({"Made:0": rows})
    kept.close()
    same = scored_blocks.ScoredBlocks(tmp_path, "one")
    assert same.rows("Made:0", ["Made:0"]) == rows
    assert same.rows("Made:0", ["Made:0", "Made:1"]) is None  # of other items
    same.close()
    other = scored_blocks.ScoredBlocks(tmp_path, "two")
    assert other.rows("Made:0", ["Made:0"]) is None
    other.close()
    back = scored_blocks.ScoredBlocks(tmp_path, "one")
    assert back.rows("Made:0", ["Made:0"]) is None
    back.close()
    scored_blocks.remove(tmp_path)
    assert not tmp_path.exists()
