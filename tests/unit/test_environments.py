"""Conda's environments: the versions of requirements.txt, and all that their rules' code imports.

Nothing is installed or solved here. What a rule's script imports is read off the code: its own
imports, those of the library's modules that it imports, and of imports within a function those
of functions whose name is mentioned by code that can run.
"""

import ast
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from spillover.core import provenance

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workflow/scripts"
# Imported by libraries: transformers reads GGUF files and tokenizers by them, pandas Parquet.
INDIRECT = {"gguf", "sentencepiece", "protobuf", "pyarrow"}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def rules() -> dict[str, tuple[str, str]]:
    """Script and environment of each rule that has a script."""
    found = {}
    for file in sorted(ROOT.glob("workflow/rules/*.smk")):
        for rule in re.split(r"^rule ", file.read_text(), flags=re.MULTILINE)[1:]:
            script = re.search(r'^    script:\n +"\.\./scripts/(.+)"$', rule, re.MULTILINE)
            conda = re.search(r'^    conda:\n +"\.\./\.\./envs/(.+)\.yaml"$', rule, re.MULTILINE)
            if script:
                assert conda, f"{rule.partition(':')[0]} has no environment"
                found[rule.partition(":")[0]] = (script[1], conda[1])
    return found


RULES = rules()
ENVIRONMENTS = sorted(path.stem for path in ROOT.glob("envs/*.yaml"))


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def pins(lines: list[str]) -> dict[str, str]:
    """Version of each pinned distribution."""
    matches = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(matches), lines
    return {canonical(match[1]): match[2] for match in matches}


def read_environment(name: str) -> tuple[list[str], dict[str, str]]:
    """What comes from conda, and the pins of what comes from PyPI."""
    environment = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())
    *of_conda, of_pip = environment["dependencies"]
    return of_conda, pins(of_pip["pip"])


def required() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


class Reached(ast.NodeVisitor):
    """Imports and names of code that can run; functions wait until their name is known."""

    def __init__(self):
        self.packages: set[str] = set()
        self.modules: set[str] = set()
        self.names: set[str] = set()
        self.waiting: list[ast.AST] = []

    def visit_function(self, node):
        # What is called by no name of ours: operators, and methods that a base class calls.
        if node.name in self.names or node.name.startswith("__"):
            self.generic_visit(node)
        else:
            self.waiting.append(node)
            for part in [*node.decorator_list, node.args]:
                self.visit(part)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_function

    def visit_ClassDef(self, node):
        self.generic_visit(node)
        if node.bases:
            for method in [part for part in node.body if isinstance(part, FUNCTION)]:
                self.names.add(method.name)

    def visit_Name(self, node):
        self.names.add(node.id)

    def visit_Attribute(self, node):
        self.names.add(node.attr)
        self.generic_visit(node)

    def visit_Import(self, node):
        self.packages |= {alias.name.partition(".")[0] for alias in node.names}

    def visit_ImportFrom(self, node):
        self.packages.add(node.module.partition(".")[0])
        self.names |= {alias.name for alias in node.names}
        self.modules |= set(provenance.imported(ast.Module([node], [])))


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(provenance.PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())


def imports(script: Path) -> set[str]:
    """Third-party packages that a script can import."""
    reached, read = Reached(), set()
    reached.visit(ast.parse(script.read_text()))
    while True:
        known = len(reached.names)
        for module in reached.modules - read:
            reached.visit(tree(module))
            read.add(module)
        waiting, reached.waiting = reached.waiting, []
        for function in waiting:
            reached.visit_function(function)
        if reached.modules == read and len(reached.names) == known:
            return reached.packages - sys.stdlib_module_names - {"spillover"}


@cache
def provided() -> dict[str, list[str]]:
    """Distributions that each package is installed from."""
    return dict(metadata.packages_distributions())


def distributions(packages: set[str]) -> set[str]:
    """What has to be installed for packages to be imported."""
    return {canonical(name) for package in packages for name in provided().get(package, [package])}


@pytest.mark.parametrize("rule", RULES)
def test_a_rules_environment_has_all_that_its_script_imports(rule):
    script, environment = RULES[rule]
    needed = distributions(imports(SCRIPTS / script))
    if "transformers" in needed:
        needed |= INDIRECT
    missing = needed - set(read_environment(environment)[1])
    assert not missing, f"envs/{environment}.yaml lacks {sorted(missing)}"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_has_nothing_that_no_script_imports(name):
    scripts = [script for script, environment in RULES.values() if environment == name]
    needed = distributions(set().union(*(imports(SCRIPTS / script) for script in scripts)))
    assert set(read_environment(name)[1]) - INDIRECT <= needed


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_pins_the_versions_of_requirements(name):
    of_conda, of_pip = read_environment(name)
    assert of_pip.items() <= required().items()
    # No other package of conda: its versions could not be tried with the pins of PyPI.
    assert [spec.partition(" ")[0] for spec in of_conda] == ["python", "pip"]


def test_imports_within_functions_count_if_the_function_is_mentioned(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from spillover.core.downloads import download_wheel\ndownload_wheel()\n")
    assert "transformers" not in imports(script)
    script.write_text("from spillover.core import downloads\ndownloads.fetch_model()\n")
    assert {"torch", "transformers", "huggingface_hub"} <= imports(script)
