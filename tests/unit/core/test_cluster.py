"""What is asked of SLURM before a start: a pretended one answers."""

import pytest
from spillover.core import cluster

SITE = """\
Configuration data as of 2026-11-26T01:46:34
AccountingStorageType   = {accounting}
MinJobAge               = {age} sec
PreemptType             = {preempt}
"""
DBD, NONE = "accounting_storage/slurmdbd", "accounting_storage/none"


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Put a program that prints some text where SLURM's own would be."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def program(name: str, text: str) -> None:
        (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / name).write_text(f'#!/bin/sh\ncat "{tmp_path}/{name}.txt"\n')
        (tmp_path / name).chmod(0o755)

    return program


@pytest.mark.parametrize(
    ("accounting", "age", "command", "words"),
    [
        (DBD, 300, "squeue", None),
        (DBD, 300, "sacct", None),
        (NONE, 300, "squeue", None),
        (NONE, 300, "sacct", "keeps no accounts"),
        ("(null)", 300, "sacct", "keeps no accounts"),
        (DBD, 100, "squeue", "use --slurm-status-command sacct"),
        (DBD, 200, "squeue", "use --slurm-status-command sacct"),
        (NONE, 100, "squeue", "shows jobs for 100 s after their end"),
        (NONE, 0, "squeue", None),
        (DBD, 2, "sacct", None),
    ],
)
def test_a_site_that_would_be_waited_for_in_vain(pretend, accounting, age, command, words):
    pretend("scontrol", SITE.format(accounting=accounting, age=age, preempt="(null)"))
    found = cluster.obstacle(command)
    assert found is None if words is None else words in found


@pytest.mark.parametrize(
    ("accounting", "age", "known"),
    [(DBD, 300, True), (NONE, 300, False), ("(null)", 300, False), (DBD, 0, False)],
)
def test_sacct_is_no_way_out_where_it_knows_nothing(pretend, monkeypatch, accounting, age, known):
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    monkeypatch.setattr(plugin, "is_query_tool_available", lambda tool: True)
    pretend("scontrol", SITE.format(accounting=accounting, age=age, preempt="(null)"))
    cluster.keep_to_squeue()
    assert plugin.is_query_tool_available("sacct") == known
    assert plugin.is_query_tool_available("squeue")


@pytest.mark.parametrize(
    ("preempt", "no_requeue", "told"),
    [
        ("preempt/qos", True, True),
        ("preempt/qos", False, False),
        ("preempt/none", True, False),
        ("(null)", True, False),
    ],
)
def test_a_site_that_preempts_is_told_of(pretend, preempt, no_requeue, told):
    pretend("scontrol", SITE.format(accounting=DBD, age=300, preempt=preempt))
    assert (cluster.note(no_requeue) is not None) == told


def test_a_machine_without_slurm_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "scontrol show config says nothing" in cluster.obstacle("squeue")


def test_jobs_left_are_those_that_make_the_same_in_the_same_folder(pretend, tmp_path):
    mine = cluster.comment("train_dpo", ["tiny", "llama", "gender", "0"])
    assert mine == "rule_train_dpo_wildcards_tiny_llama_gender_0"
    assert cluster.comment("fetch_bbq", []) == "rule_fetch_bbq"
    assert cluster.comment("score_items", ["s", "m", "a/seed0"]).endswith("s_m_a_seed0")
    lines = [
        f"17|{mine}|{tmp_path}",
        f"18|{mine}|/elsewhere",
        f"19|rule_train_dpo_wildcards_other_llama_gender_0|{tmp_path}",
        f"20|(null)|{tmp_path}",
        f"21|{mine}|{tmp_path}",
        f"22|{mine}|{tmp_path}|another",
    ]
    pretend("squeue", "\n".join(lines) + "\n")
    assert cluster.jobs_left({mine}, tmp_path) == ["17", "21"]


def test_waiting_says_for_which_jobs_and_once(pretend, tmp_path):
    pretend("squeue", f"17|rule_x|{tmp_path}\n")
    said = []

    def say(line: str) -> None:
        said.append(line)
        pretend("squeue", f"17|rule_x|{tmp_path}\n" if len(said) < 1 else "")

    assert cluster.wait_for_jobs_left({"rule_x"}, tmp_path, say, every=0)
    assert len(said) == 1
    assert "scancel 17" in said[0]
    assert not cluster.wait_for_jobs_left({"rule_x"}, tmp_path, said.append, every=0)


def test_a_squeue_that_fails_once_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    mine = cluster.comment("train_dpo", ["s"])
    # It fails at first, then names a job, fails, names it no more.
    (tmp_path / "squeue").write_text(
        f"""#!/bin/sh
n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n + 1)) > {tmp_path}/n
case $n in 0|2) exit 1;; 1) echo "77|{mine}|{tmp_path}";; esac
"""
    )
    (tmp_path / "squeue").chmod(0o755)
    said = []
    assert cluster.wait_for_jobs_left([mine], tmp_path, said.append, every=0)
    assert (tmp_path / "n").read_text().strip() == "4"
    assert [line.partition(",")[0] for line in said] == [
        "squeue does not answer",
        "an earlier start has left jobs in the queue that make the same; waiting for them (to "
        "begin without them: scancel 77)",
        "squeue does not answer",
    ]
