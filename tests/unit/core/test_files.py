import errno
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from spillover.core import files, logs
from spillover.core.errors import InputError

SCRIPTS = Path(__file__).parents[3] / "workflow" / "scripts"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("old")

    def write_half():
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.tsv"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old").touch()
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert os.listdir(folder) == ["new"]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path):
    def fill():
        with files.replacing(tmp_path / "a.tsv") as temporary:
            temporary.write_text("half")
            Path("/dev/full").write_text("x")  # the kernel's own ENOSPC

    with pytest.raises(InputError, match=r"a\.tsv: no space left on the disk"):
        fill()
    assert os.listdir(tmp_path) == []


def test_errors_that_wrap_a_full_disk_are_seen_through():
    wrapped = RuntimeError("writer failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert files.disk_is_full(wrapped)
    assert not files.disk_is_full(RuntimeError("another"))


@pytest.mark.parametrize("name", ["t.parquet", "t.tsv"])
def test_tables_come_back_and_are_the_same_bytes(tmp_path, name):
    table = pd.DataFrame({"n": [1, 2], "share": [1 / 3, None], "name": ["a", "b"]})
    files.write_table(table, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    files.write_table(table, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    back = files.read_table(tmp_path / name)
    pd.testing.assert_frame_equal(back, table, check_dtype=False, rtol=1e-9)


def test_names_stay_what_they_are(tmp_path):
    names = ["nan", "007", "true", "1e3"]
    table = pd.DataFrame({"model": names, "value": [0.5, None, 1.0, 2.0]})
    files.write_table(table, tmp_path / "table.tsv")
    found = files.read_table(tmp_path / "table.tsv")
    assert found["model"].tolist() == names
    assert found["value"].isna().tolist() == [False, True, False, False]


def test_a_truncated_table_is_told_in_one_line(tmp_path):
    files.write_table(pd.DataFrame({"n": range(1000)}), tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[:-50])
    with pytest.raises(InputError, match=r"t.parquet: cannot be read"):
        files.read_table(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="missing"):
        files.read_table(tmp_path / "absent.parquet")


def test_scratch_is_hidden_and_goes_and_so_does_that_of_a_process_that_was_killed(tmp_path):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(files.__file__).parents[2])!r})
from spillover.core import files
with files.scratch({str(tmp_path)!r}) as folder:
    (folder / "wheel").write_text("bytes")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    with files.scratch(tmp_path) as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name] != [left.name]
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_sync_folders_is_no_obstacle_and_a_full_one_is(
    tmp_path, monkeypatch
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("bytes")
    seen = []

    def sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(is_folder)
        if is_folder or fails:
            raise OSError(errno.EINVAL if is_folder else errno.ENOSPC, "no")

    monkeypatch.setattr(files.os, "fsync", sync)
    fails = False
    files.to_disk(tmp_path / "folder")
    assert seen == [False, True, True]
    fails = True
    with pytest.raises(OSError, match="no"):
        files.to_disk(tmp_path / "folder")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59, "59 s"),
        (97, "1 min 37 s"),
        (3599.7, "1 h 00 min"),
        (90_300, "25 h 05 min"),
    ],
)
def test_durations_are_as_exact_as_people_need(seconds, words):
    assert logs.duration(seconds) == words


JOB = """
import sys
sys.path.insert(0, {scripts!r})
import logging, os
from spillover.core.errors import InputError
from spillover.core.logs import log_to
with log_to({log!r}):
    logging.getLogger("spillover.x").info("half way")
    os.write(2, b"a library's noise\\n")
    {end}
"""


@pytest.mark.parametrize(
    ("end", "status", "terminal", "log"),
    [
        ("pass", 0, "half way", "a library's noise"),
        ("raise InputError('file.csv: wrong')", 1, "error: file.csv: wrong", "half way"),
        ("1 / 0", 1, "error: ZeroDivisionError: division by zero", "Traceback"),
    ],
)
def test_a_job_shows_progress_and_one_line_of_error(tmp_path, end, status, terminal, log):
    path = str(tmp_path / "job.log")
    job = JOB.format(scripts=str(SCRIPTS), log=path, end=end)
    done = subprocess.run([sys.executable, "-c", job], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert terminal in done.stderr
    assert "noise" not in done.stderr
    assert "Traceback" not in done.stderr
    assert log in Path(path).read_text()
    assert logging.getLogger().level != logging.NOTSET  # this process's logging is untouched
