import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub
from spillover.core import downloads
from spillover.core.errors import InputError

SCRIPTS = Path(__file__).parents[3] / "workflow" / "scripts"
FETCH = """
import json, sys
from pathlib import Path
from spillover.core import downloads
from spillover.core.errors import InputError
try:
    print(json.dumps(downloads.fetch_model(json.loads(sys.argv[1]), Path(sys.argv[2]))))
except InputError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def hub(tiny_folder):
    server = Hub(tiny_folder("llama"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(hub, tmp_path):
    """Fetch in a process of its own: the hub's client reads its environment when imported."""

    def run(timeout: float | None = None, revision: str = "main", **environment: str):
        source = {"type": "hub", "repo": "some/model", "revision": revision}
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        done = subprocess.run(
            [sys.executable, "-c", FETCH, json.dumps(source), str(folder)],
            env=os.environ
            | {
                "PYTHONPATH": str(SCRIPTS),
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(tmp_path / "cache"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DOWNLOAD_TIMEOUT": "5",
                "HF_TOKEN": "hf_a_secret",
                "NO_PROXY": "127.0.0.1",
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "hf_a_secret" not in done.stdout + done.stderr
        return done, folder

    return run


def error_of(done) -> str:
    assert done.returncode == 1
    return next(line for line in done.stderr.splitlines() if line.startswith("error: "))


def same_files(folder: Path, hub: Hub) -> bool:
    return {file.name: file.read_bytes() for file in folder.iterdir()} == hub.files


def test_a_model_comes_whole_with_the_commit_it_resolved_to(fetch, hub):
    done, folder = fetch()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == COMMIT
    assert same_files(folder, hub)


def test_weights_in_a_second_format_pickles_and_code_stay_where_they_are(fetch, hub):
    wanted = dict(hub.files)
    more = ["consolidated.safetensors", "pytorch_model.bin", "modeling_own.py"]
    hub.files |= dict.fromkeys(more, b"not wanted")
    done, folder = fetch()
    assert done.returncode == 0, done.stderr
    assert not set(more) & set(hub.served)
    hub.files = wanted
    assert same_files(folder, hub)


def test_a_broken_connection_is_taken_up_where_it_broke(fetch, hub):
    # The client writes pieces of 10 MiB: what came of a smaller one is lost.
    hub.files["model.safetensors"] = bytes(range(256)) * 100_000
    hub.cuts = [15_000_000]
    done, folder = fetch()
    assert done.returncode == 0, done.stderr
    assert same_files(folder, hub)
    assert hub.ranges == [0, 10 * 2**20]


def test_after_a_failure_the_files_that_came_whole_are_kept(fetch, hub):
    hub.cuts = [1000] * 20
    line = error_of(fetch()[0])
    assert "some/model: the connection to the hub broke" in line
    hub.cuts, hub.served[:] = [], []
    done, folder = fetch()
    assert done.returncode == 0, done.stderr
    assert same_files(folder, hub)
    assert hub.served == ["model.safetensors"]


def test_another_hash_than_the_hub_says_is_refused_and_removed(fetch, hub):
    hub.spoil = True
    done, folder = fetch()
    assert "model.safetensors came with another hash than the hub says" in error_of(done)
    assert not folder.exists()
    hub.spoil = False
    done, folder = fetch()
    assert done.returncode == 0, done.stderr
    assert same_files(folder, hub)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_one_line_with_page_and_variable(fetch, hub, status):
    hub.status = status
    line = error_of(fetch()[0])
    assert f"accept its licence at {hub.endpoint}/some/model and set HF_TOKEN" in line


def test_a_revision_that_is_not_there_is_named(fetch):
    assert "no revision 'v9'" in error_of(fetch(revision="v9")[0])


def test_without_a_network_a_complete_copy_does_and_no_other(fetch, hub):
    assert "not complete in the hub's cache" in error_of(fetch(HF_HUB_OFFLINE="1")[0])
    assert fetch()[0].returncode == 0
    done, folder = fetch(HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert same_files(folder, hub)
    hub.shutdown()
    hub.server_close()
    done, folder = fetch()
    assert done.returncode == 0, done.stderr
    assert same_files(folder, hub)


def test_a_folder_is_linked_not_copied(tiny_folder, tmp_path):
    origin = tiny_folder("qwen2")
    downloads.fetch_model({"type": "path", "path": str(origin)}, tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").resolve() == origin / "model.safetensors"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: expected a folder"):
        downloads.fetch_model({"type": "path", "path": "nowhere"}, tmp_path / "model")


def test_errors_name_the_users_key_and_place_and_no_temporary_folder(tmp_path):
    source = {"type": "hub", "repo": "owner/name"}
    with (
        pytest.raises(InputError, match=r"^models\.a\.source: owner/name/config.json: not JSON$"),
        downloads.told_of("models.a.source", source, tmp_path / ".a.123"),
    ):
        raise InputError(f"{tmp_path / '.a.123' / 'config.json'}: not JSON")


def test_an_adapter_is_its_two_files_and_its_card(tmp_path):
    (tmp_path / "theirs").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "optimizer.pt"):
        (tmp_path / "theirs" / name).write_text(name)
    source = {"type": "path", "path": str(tmp_path / "theirs")}
    downloads.fetch_adapter(source, tmp_path / "ours")
    found = sorted(file.name for file in (tmp_path / "ours").iterdir())
    assert found == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_a_wheel_with_another_hash_is_refused(tmp_path):
    with pytest.raises(InputError, match="has another hash than the pinned one"):
        downloads.download_wheel("iniconfig==2.3.1", "0" * 64, tmp_path)
