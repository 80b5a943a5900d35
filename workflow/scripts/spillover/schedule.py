"""How long jobs take that wait for each other, on so many GPUs."""

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a schedule knows of a job.

    Attributes
    ----------
    seconds : how long it takes.
    needs : names of the tasks that must have ended before.
    priority : of the tasks that are ready, those of the highest start first.
    on_gpu : whether it takes a GPU, one, to itself; the others run beside.
    """

    seconds: float
    needs: Collection[str] = ()
    priority: int = 0
    on_gpu: bool = True


def makespan(tasks: Mapping[str, Task], n_gpus: int) -> float:
    """Seconds until all tasks have ended, by list scheduling (Graham 1969).

    Whenever a GPU is free, it takes the first ready task by priority, and of equal ones by the
    order given, as Snakemake does but for its ties. It never waits for a better one: the shortest
    schedule there is takes at least half as long.

    Raises
    ------
    ValueError
        If a task can never start: tasks need each other, or one that is not there, or a GPU
        where there is none.
    """
    waiting = sorted(tasks, key=lambda name: -tasks[name].priority)
    ended: set[str] = set()
    running: list[tuple[float, str]] = []
    now, free = 0.0, n_gpus
    while waiting or running:
        for name in list(waiting):
            task = tasks[name]
            if ended.issuperset(task.needs) and (free > 0 or not task.on_gpu):
                waiting.remove(name)
                heapq.heappush(running, (now + task.seconds, name))
                free -= task.on_gpu
        if not running:
            raise ValueError(f"can never start: {', '.join(waiting)}")
        now = running[0][0]
        while running and running[0][0] == now:
            _, name = heapq.heappop(running)
            ended.add(name)
            free += tasks[name].on_gpu
    return now


def critical_path(tasks: Mapping[str, Task]) -> float:
    """Seconds of the longest chain of tasks that wait for each other: no GPUs help below it."""
    return makespan(tasks, max(len(tasks), 1))
