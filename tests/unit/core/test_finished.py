"""What a job has finished unseen: taken to the places it was made for, and to no others."""

import pytest
from spillover.core import finished


@pytest.fixture
def results(tmp_path):
    """Two adapters that are called alike, made, kept and lost."""
    files = [tmp_path / f"seed0@{share}/adapter.bin" for share in ("0.25", "0.75")]
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)
    finished.keep(tmp_path / "kept", list(map(str, files)), "settings")
    for file in files:
        file.unlink()
    return files


def test_results_are_taken_if_they_were_made_of_the_same(results, tmp_path):
    assert not finished.take(tmp_path / "kept", list(map(str, results)), "other settings")
    assert not results[0].exists()
    assert finished.take(tmp_path / "kept", list(map(str, results)), "settings")
    assert [file.read_text() for file in results] == ["seed0@0.25", "seed0@0.75"]


def test_results_of_other_shares_of_training_are_not_taken(results, tmp_path):
    others = [tmp_path / f"seed0@{share}/adapter.bin" for share in ("0.50", "0.75")]
    assert not finished.take(tmp_path / "kept", list(map(str, others)), "settings")
    assert not finished.take(tmp_path / "nothing", list(map(str, others)), "settings")


def test_results_that_were_cut_are_not_taken(results, tmp_path):
    cut = next(path for path in (tmp_path / "kept").iterdir() if path.name.startswith("1-"))
    cut.write_text("seed0")
    assert not finished.take(tmp_path / "kept", list(map(str, results)), "settings")
    assert not results[0].exists()


def test_results_that_are_there_are_taken_all_the_same(results, tmp_path):
    for _ in range(2):
        assert finished.take(tmp_path / "kept", list(map(str, results)), "settings")
    assert [path.name for path in results[0].parent.iterdir()] == ["adapter.bin"]
