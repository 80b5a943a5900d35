"""Fingerprints of the code that a result depends on."""

import ast
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parent
# They carry results and make none.
PLUMBING = {"errors", "files", "logs"}


def fingerprint(*modules: str) -> str:
    """Hash of library modules and of all that they import from the library.

    Comments, docstrings and layout do not count, nor what only carries results: they change
    none. Given to a rule as a
    parameter, it makes Snakemake rerun the rule when the code that made its result changes;
    by itself Snakemake looks at a rule's script only.
    """
    trees: dict[str, ast.Module] = {}
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name in trees or name in PLUMBING:
            continue
        trees[name] = ast.parse((PACKAGE / f"{name}.py").read_text())
        queue += _imported(trees[name])
    text = "\n".join(f"{name}:\n{_without_docstrings(trees[name])}" for name in sorted(trees))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _imported(tree: ast.Module) -> list[str]:
    """Names of the library's modules that a module imports, wherever it does."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "spillover":
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spillover."):
            names.append(node.module.removeprefix("spillover."))
    return names


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
