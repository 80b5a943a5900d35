"""Training that is killed, short of memory or out of bounds."""

import itertools
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import pandas as pd
import pytest
import torch
from preferences import make_pairs
from safetensors.torch import load_file
from spillover.alignment import checkpoints as saved
from spillover.alignment import shared_prefix_dpo
from spillover.core.errors import InputError
from tiny_training import train, weights


def test_out_of_memory_halves_what_runs_at_once(folder, tmp_path, monkeypatch, caplog):
    pairs = make_pairs(8, "three_option")
    settings = {"lora": {"dropout": 0.0}, "training": {"pairs_per_step": 8}}
    whole = train(folder, tmp_path / "a", pairs, **settings)
    sizes = []
    collate = shared_prefix_dpo.SharedPrefixCollator.__call__

    def limited(self, part):
        batch = collate(self, part)
        sizes.append(batch["tree"]["input_ids"].shape[1])
        if sizes[-1] > 250:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch

    monkeypatch.setattr(shared_prefix_dpo.SharedPrefixCollator, "__call__", limited)
    with caplog.at_level(logging.WARNING, logger="spillover"):
        halved = train(folder, tmp_path / "b", pairs, **settings)
    assert "out of memory" in caplog.text
    assert max(sizes) > 250
    assert max(sizes[-4:]) <= 250
    pd.testing.assert_frame_equal(
        whole.drop(columns="tokens"), halved.drop(columns="tokens"), rtol=1e-4, atol=1e-6
    )


def test_memory_for_no_item_is_one_line(folder, tmp_path, monkeypatch):
    def none(self, part):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(shared_prefix_dpo.SharedPrefixCollator, "__call__", none)
    with pytest.raises(InputError, match=r"out of memory with .* tokens in one forward pass"):
        train(folder, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_end_it_writes_a_checkpoint_and_goes_on_from_there(
    folder, tmp_path, monkeypatch, number
):
    longer = {"training": {"epochs": 3}}
    whole = train(folder, tmp_path / "whole", **longer)
    before = signal.getsignal(number)
    collate = shared_prefix_dpo.SharedPrefixCollator.__call__
    calls = []

    def asked(self, part):
        calls.append(part)
        if len(calls) == 3:  # the first is a check before the first step
            signal.raise_signal(number)
        return collate(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(shared_prefix_dpo.SharedPrefixCollator, "__call__", asked)
        with pytest.raises(InputError, match=rf"ended by {number.name} at step \d+ of \d+"):
            train(folder, tmp_path / "asked", **longer)
    assert signal.getsignal(number) == before
    checkpoint = saved.last(tmp_path / "asked" / "checkpoints")
    assert checkpoint is not None
    assert not (tmp_path / "asked" / "adapter").exists()
    again = train(folder, tmp_path / "asked", **longer)
    pd.testing.assert_frame_equal(whole, again)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "asked")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_that_is_cut_at_any_byte_is_no_checkpoint(folder, tmp_path, monkeypatch):
    calm = train(folder, tmp_path / "calm", training={"epochs": 2, "checkpoint_steps": 1})
    keep, kept = saved.keep_last, []

    def keep_and_end(path):
        keep(path)
        kept.append(saved.last(path))
        if len(kept) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saved, "keep_last", keep_and_end)
        with pytest.raises(KeyboardInterrupt):
            train(folder, tmp_path / "cut", training={"epochs": 2, "checkpoint_steps": 1})
    checkpoints = tmp_path / "cut" / "checkpoints"
    assert sorted(path.name for path in checkpoints.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-3",
    ]
    latest = checkpoints / "checkpoint-3"
    draw = random.Random(0)
    for file in sorted(latest.iterdir()):
        content = file.read_bytes()
        for size in {0, len(content) - 1, draw.randrange(len(content))}:
            file.write_bytes(content[:size])
            assert saved.last(checkpoints) == checkpoints / "checkpoint-2", (file, size)
        if file.name != "optimizer.pt":  # the one that stays cut
            file.write_bytes(content)
    again = train(folder, tmp_path / "cut", training={"epochs": 2, "checkpoint_steps": 1})
    pd.testing.assert_frame_equal(calm, again)


def test_a_full_disk_while_a_checkpoint_is_written_is_one_line(folder, tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="checkpoints: no space left on the disk"):
        train(folder, tmp_path, training={"checkpoint_steps": 1})
    assert not (tmp_path / "adapter").exists()


def test_a_loss_that_is_not_finite_stops(folder, tmp_path):
    training = {"learning_rate": 1e30, "epochs": 4, "checkpoint_steps": 1, "max_grad_norm": 1e9}
    with pytest.raises(InputError, match=r"at step \d+ \(pairs of Age:\d.*checkpoint-\d+") as error:
        train(folder, tmp_path, training=training)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "adapter").exists()
    checkpoint = saved.last(tmp_path / "checkpoints")
    tensors = load_file(checkpoint / "adapter_model.safetensors").values()
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_checkpoints_of_another_run_are_refused(tmp_path, caplog):
    saved.open_folder(tmp_path, {"seed": 0, "lora": {"r": 16}})
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_text("abc")
        saved.mark_whole(tmp_path / f"checkpoint-{step}")
    assert saved.open_folder(tmp_path, {"seed": 0, "lora": {"r": 16}}).name == "checkpoint-10"
    with caplog.at_level(logging.WARNING, logger="spillover"):
        assert saved.open_folder(tmp_path, {"seed": 0, "lora": {"r": 8}}) is None
    assert "another lora; starting over" in caplog.text
    assert not list(tmp_path.glob("checkpoint-*"))


def test_checkpoints_of_another_run_that_cannot_be_removed_are_not_gone_on_from(
    tmp_path, monkeypatch
):
    saved.open_folder(tmp_path, {"seed": 0})
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9" / "weights").write_text("abc")
    saved.mark_whole(tmp_path / "checkpoint-9")
    monkeypatch.setattr(saved.shutil, "rmtree", lambda *_, **__: None)  # as of another user's
    with pytest.raises(InputError, match="checkpoint-9: of another run, and cannot be removed"):
        saved.open_folder(tmp_path, {"seed": 1})


def test_half_written_checkpoints_are_passed_over(tmp_path):
    saved.open_folder(tmp_path, {})
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "weights").write_text("abc")
        if step < 3:
            saved.mark_whole(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-2" / "weights").write_text("a")
    assert saved.open_folder(tmp_path, {}).name == "checkpoint-1"
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]


def _attempt(folder, scratch, pairs):
    """In a process of its own: what a job does."""
    torch.set_num_threads(1)
    logging.disable()
    log = train(
        folder,
        scratch,
        pairs,
        # Half a millisecond: a checkpoint by time after every step.
        training={"epochs": 3, "checkpoint_steps": 3, "checkpoint_minutes": 1e-5},
    )
    log.to_csv(scratch / "log.csv")


def test_twenty_kills_leave_the_same_adapter(folder, tmp_path, monkeypatch):
    # The server is not told where this process imports from (before Python 3.13), and what it
    # cannot import it passes over: each attempt would take 7 s of imports, and be killed there.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["spillover.alignment.train", "tiny_models", "preferences", "pytest"]
    )
    pairs = make_pairs(16, "cloze")

    def start(scratch):
        process = context.Process(target=_attempt, args=(folder, scratch, pairs))
        process.start()
        return process

    def begin():
        begun = time.monotonic()
        process = start(tmp_path / "calm")
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - begun

    begin()  # imports
    shutil.rmtree(tmp_path / "calm")
    duration = begin()
    calm, log = weights(tmp_path / "calm"), (tmp_path / "calm" / "log.csv").read_bytes()
    moments = random.Random(0)
    kills, resumed, chains = 0, set(), itertools.count()
    while kills < 20:
        # A folder of its own: in one that is finished there is nothing left to kill.
        scratch = tmp_path / f"chain{next(chains)}"
        while True:
            checkpoint = saved.last(scratch / "checkpoints")
            resumed.add(checkpoint.name if checkpoint else None)
            process = start(scratch)
            process.join(moments.uniform(0.3, 1) * duration)
            if process.exitcode is None:
                process.kill()
                kills += 1
            process.join()
            if process.exitcode == 0:
                break
        chain = weights(scratch)
        assert chain.keys() == calm.keys()
        assert all(torch.equal(chain[name], calm[name]) for name in calm)
        assert (scratch / "log.csv").read_bytes() == log
    # The chain went on from checkpoints, and did not begin again each time.
    assert len(resumed) > 3


def test_checkpoints_of_other_code_are_not_gone_on_from(folder, tmp_path, caplog):
    train(folder, tmp_path, training={"checkpoint_steps": 1}, code="before")
    with caplog.at_level(logging.INFO, logger="spillover"):
        train(folder, tmp_path, training={"checkpoint_steps": 1}, code="after")
    assert "another code; starting over" in caplog.text
    assert "going on from" not in caplog.text


def test_a_finished_runs_checkpoints_can_be_discarded(folder, tmp_path):
    train(folder, tmp_path, training={"checkpoint_steps": 1})
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-1",
        "checkpoint-2",
    ]
    saved.discard(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()


def test_what_a_full_disk_has_cut_off_is_removed_and_what_is_whole_stays(tmp_path):
    folder = tmp_path / "checkpoints"
    saved.open_folder(folder, {"of": "this run"})
    for step in (4, 8):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "README.md").write_text("card")
    saved.mark_whole(folder / "checkpoint-4")
    saved.give_back(folder)
    assert saved.last(folder) == folder / "checkpoint-4"
    assert not (folder / "checkpoint-8").exists()
    (folder / "checkpoint-4" / "README.md").write_text("cut")
    saved.give_back(folder)
    assert not folder.exists()
