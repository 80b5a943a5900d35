"""A SLURM of this machine's own, and studies that run on it."""

import os

import pytest
import slurm
from checkout import Workflow

ASKED = "SPILLOVER_SLURM"
# The node's CPUs are pretended: jobs that ask for eight share the few there are.
os.environ["OMP_THREAD_LIMIT"] = "1"


@pytest.fixture(scope="session", autouse=True)
def asked_for():
    """Only where it is asked for: a cluster writes /etc/slurm, and its daemons run as root."""
    if not os.environ.get(ASKED):
        pytest.skip(f"set {ASKED}=1 for a SLURM on this machine: root, writes /etc/slurm")
    if reason := slurm.obstacle():
        pytest.skip(f"no SLURM: {reason}")


@pytest.fixture(scope="session")
def site():
    """The cluster, with accounting or without: one at a time."""
    running = []

    def start(accounting: bool) -> slurm.Slurm:
        reason = slurm.obstacle(accounting)
        if reason:
            pytest.skip(f"no SLURM: {reason}")
        if not (running and running[-1].accounting == accounting):
            running.append(slurm.Slurm(accounting))
            running[-1].start()
        return running[-1]

    yield start
    if running:
        running[-1].stop()


@pytest.fixture(scope="session")
def published(bbq_files, tmp_path_factory):
    """Folder of the published data, as a user's clone."""
    folder = tmp_path_factory.mktemp("bbq")
    for name, data in bbq_files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path / "checkout")
