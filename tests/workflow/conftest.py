"""A copy of the workflow to run and to change, with published data and tiny models."""

import os
import signal
from pathlib import Path

import pytest
from checkout import Workflow


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path / "checkout")


@pytest.fixture(scope="module")
def shared_workflow(tmp_path_factory):
    return Workflow(tmp_path_factory.mktemp("study") / "checkout")


@pytest.fixture(scope="module")
def published(bbq_files, tmp_path_factory) -> Path:
    """Folder of the published data, as a user's clone."""
    folder = tmp_path_factory.mktemp("bbq")
    for name, data in bbq_files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def kill():
    """Kill a process group at once, as a cluster or the kernel would."""
    return lambda process: os.killpg(process.pid, signal.SIGKILL)
