"""The library's folders are the stages of the work, and know only those before them."""

import ast
from pathlib import Path

import pytest
from spillover.core import provenance

FOLDERS = ["core", "data", "models", "alignment", "scoring", "statistics", "report"]
MODULES = sorted(provenance.PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_is_short_and_imports_from_its_own_folder_and_those_above(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    stage = path.parent.name
    if stage == "spillover":  # stands for the whole
        return
    known = FOLDERS[: FOLDERS.index(stage) + 1]
    used = {name.split(".")[0] for name in provenance.imported(ast.parse(text))}
    assert used <= set(known)


def test_every_folder_has_its_tests():
    tests = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir()}
    assert set(FOLDERS) <= tests
    assert {path.name for path in provenance.PACKAGE.iterdir() if path.is_dir()} - {
        "__pycache__"
    } == set(FOLDERS)
