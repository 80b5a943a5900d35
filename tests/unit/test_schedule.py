"""Schedules worked out by hand."""

import pytest
from spillover.schedule import Task, critical_path, makespan

# A base's score beside two trainings, each with a score and a diagnosis behind it.
STUDY = {
    "base": Task(3),
    "train 0": Task(4, priority=1),
    "score 0": Task(3, ["train 0"]),
    "diagnose 0": Task(1, ["train 0"]),
    "train 1": Task(4, priority=1),
    "score 1": Task(3, ["train 1"]),
    "diagnose 1": Task(1, ["train 1"]),
}


@pytest.mark.parametrize(
    ("n_gpus", "hours"),
    [
        (1, 19),  # the sum
        # 0-4 both trainings; 4-7 base, score 0; 7-8 diagnose 0, 7-10 score 1; 8-9 diagnose 1
        (2, 10),
        # 0-4 trainings, 0-3 base; 4-7 score 0 and score 1, 4-5 and 5-6 the diagnoses
        (3, 7),
        (8, 7),
    ],
)
def test_a_study_by_hand(n_gpus, hours):
    assert makespan(STUDY, n_gpus) == hours


def test_the_critical_path_is_the_longest_chain():
    assert critical_path(STUDY) == 7
    assert critical_path({}) == 0


def test_what_has_priority_starts_first():
    chain = {"last": Task(5), "first": Task(1), "behind": Task(5, ["first"])}
    assert makespan(chain, 2) == 6
    assert makespan(chain, 1) == 11
    late = {"a": Task(5), "b": Task(5), "long": Task(1), "behind": Task(5, ["long"])}
    assert makespan(late, 2) == 11
    early = late | {"long": Task(1, priority=1)}
    # 0-1 long, 0-5 a; 1-6 b; 5-10 behind
    assert makespan(early, 2) == 10


def test_what_takes_no_gpu_runs_beside():
    tasks = {
        "quantize a": Task(2, on_gpu=False),
        "quantize b": Task(2, on_gpu=False),
        "score a": Task(3, ["quantize a"]),
        "score b": Task(3, ["quantize b"]),
    }
    assert makespan(tasks, 1) == 8
    assert makespan(tasks, 2) == critical_path(tasks) == 5


@pytest.mark.parametrize(
    "tasks",
    [{"a": Task(1, ["b"]), "b": Task(1, ["a"])}, {"a": Task(1, ["not there"])}],
)
def test_what_can_never_start_is_an_error(tasks):
    with pytest.raises(ValueError, match="can never start: a"):
        makespan(tasks, 2)
    with pytest.raises(ValueError, match="can never start"):
        makespan({"a": Task(1)}, 0)
