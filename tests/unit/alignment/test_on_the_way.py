"""Adapters that are kept on the way of a training."""

import os
import signal

import pytest
from preferences import make_pairs
from spillover.alignment import shared_prefix_dpo
from spillover.core.errors import InputError
from tiny_training import train

FILE = "adapter_model.safetensors"
SETTINGS = {"training": {"epochs": 2, "checkpoint_steps": 1}}


@pytest.fixture
def pairs():
    return make_pairs(8, "three_option")  # sixteen steps of four in two epochs


def kept(scratch, shares) -> dict:
    return {share: scratch / f"at-{share}" for share in shares}


def read(folder) -> bytes:
    return (folder / FILE).read_bytes()


def test_at_the_end_is_the_adapter_and_before_it_another(folder, pairs, tmp_path):
    plain = train(folder, tmp_path / "plain", pairs, **SETTINGS)
    ways = kept(tmp_path, (0.01, 0.5, 1.0))
    table = train(folder, tmp_path / "whole", pairs, on_the_way=ways, **SETTINGS)
    final = read(tmp_path / "whole/adapter")
    assert final == read(tmp_path / "plain/adapter")
    assert table.equals(plain)
    assert read(ways[1.0]) == final
    different = {read(folder) for folder in ways.values()}
    assert len(different) == 3
    config = "adapter_config.json"
    assert (ways[0.5] / config).read_bytes() == (tmp_path / "whole/adapter" / config).read_bytes()
    assert "after | 50 % of the steps" in (ways[0.5] / "README.md").read_text()


def test_half_way_is_what_a_training_was_after_half_of_its_steps(folder, pairs, tmp_path):
    # At a constant learning rate, one epoch is half of two.
    constant = {"lr_scheduler": "constant"}
    ways = kept(tmp_path, (0.5,))
    longer = {"training": {**SETTINGS["training"], **constant}}
    train(folder, tmp_path / "two", pairs, on_the_way=ways, **longer)
    train(folder, tmp_path / "one", pairs, training={"epochs": 1, **constant})
    assert read(ways[0.5]) == read(tmp_path / "one/adapter")


def stopped(folder, scratch, pairs, monkeypatch, after: int, **settings) -> None:
    """A training that is asked to end after so many steps."""
    collate = shared_prefix_dpo.SharedPrefixCollator.__call__
    calls = []

    def asked(self, part):
        calls.append(part)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return collate(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(shared_prefix_dpo.SharedPrefixCollator, "__call__", asked)
        with pytest.raises(InputError, match="ended by SIGTERM"):
            train(folder, scratch, pairs, **settings)


def test_a_training_that_goes_on_keeps_what_it_kept_before(folder, pairs, tmp_path, monkeypatch):
    ways = kept(tmp_path / "undisturbed", (0.25, 0.75))
    train(folder, tmp_path / "undisturbed", pairs, on_the_way=ways, **SETTINGS)
    again = kept(tmp_path / "stopped", (0.25, 0.75))
    settings = SETTINGS | {"on_the_way": again}
    stopped(folder, tmp_path / "stopped", pairs, monkeypatch, after=5, **settings)
    assert not again[0.25].exists()
    train(folder, tmp_path / "stopped", pairs, **settings)
    for share, way in ways.items():
        assert read(again[share]) == read(way)
    assert read(tmp_path / "stopped/adapter") == read(tmp_path / "undisturbed/adapter")


def test_what_was_not_kept_before_is_trained_for_again(
    folder, pairs, tmp_path, monkeypatch, caplog
):
    stopped(folder, tmp_path / "stopped", pairs, monkeypatch, after=5, **SETTINGS)
    ways = kept(tmp_path, (0.25,))
    train(folder, tmp_path / "stopped", pairs, on_the_way=ways, **SETTINGS)
    assert "another on_the_way; starting over" in caplog.text
    assert (ways[0.25] / FILE).is_file()
