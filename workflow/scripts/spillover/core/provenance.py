"""What a result depends on: fingerprints of code, and of a job's model, files and settings."""

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from spillover.core.files import file_sha256, sha256

PACKAGE = Path(__file__).parents[1]
# They carry results and make none.
PLUMBING = {f"core.{name}" for name in ("errors", "files", "gpus", "locks", "logs", "signals")}

# What tells where a model's files are from.
RECORDS = ("source.json", "quantized.json")


def provenance(settings: Iterable, models: Iterable[str | Path], files: Iterable) -> str:
    """Hash of what a job's result depends on, for a job to see whether it is made already.

    Parameters
    ----------
    settings : whatever JSON can hold, the fingerprint of the code among it.
    models : folders of models, of which their records are looked at.
    files : paths of files, of which the content is.
    """
    records = [Path(folder) / name for folder in models for name in RECORDS]
    content = [
        *settings,
        *[record.read_text() for record in records if record.exists()],
        *map(file_sha256, files),
    ]
    return sha256(json.dumps(content, sort_keys=True).encode())


def fingerprint(*modules: str) -> str:
    """Hash of library modules and of all that they import from the library.

    Comments, docstrings and layout do not count, nor what only carries results: they change
    none. Given to a rule as a parameter, it makes Snakemake rerun the rule when the code that
    made its result changes; by itself Snakemake looks at a rule's script only.

    Parameters
    ----------
    modules : dotted names within the library, e.g. ``data.pairs``.
    """
    trees: dict[str, ast.Module] = {}
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in trees or name in PLUMBING:
            continue
        trees[name] = ast.parse(_file(name).read_text())
        queue += imported(trees[name])
    text = "\n".join(f"{name}:\n{_without_docstrings(trees[name])}" for name in sorted(trees))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def imported(tree: ast.Module) -> list[str]:
    """Dotted names of the library's modules that a module imports, wherever it does."""
    names = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        package, _, inner = (node.module or "").partition(".")
        if package != "spillover":
            continue
        for alias in node.names:
            name = f"{inner}.{alias.name}".lstrip(".")
            names.append(name if _file(name).is_file() else inner)
    return names


def _file(name: str) -> Path:
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body[0] = ast.Pass()
    return ast.unparse(tree)
