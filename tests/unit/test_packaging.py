"""What comes along with the code: licence, citation, changes, catalog, list of targets, links."""

import re
import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from spillover.core import provenance

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/*.md")),
]
# Top-level keys of the Citation File Format 1.2.0, which allows no others.
REQUIRED = {"authors", "cff-version", "message", "title"}
ALLOWED = REQUIRED | {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "preferred-citation", "references", "repository"),
    *("repository-artifact", "repository-code", "type", "url", "version"),
}


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.fixture
def citation() -> dict:
    return yaml.safe_load(read("CITATION.cff"))


def test_the_citation_has_what_its_format_demands(citation):
    assert citation.keys() >= REQUIRED
    assert citation.keys() <= ALLOWED
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    for work in citation["references"]:
        assert work.keys() >= {"authors", "title", "type"}, work
    for work in [citation, *citation["references"]]:
        assert work["authors"]
        # An entity has a name, a person a family name.
        assert all("name" in author or "family-names" in author for author in work["authors"])


def test_bbq_is_cited_as_the_readme_links_it(citation):
    bbq = citation["references"][0]
    assert bbq["title"].startswith("BBQ")
    assert f"aclanthology.org/{bbq['doi'].removeprefix('10.18653/v1/')}/" in read("README.md")


def test_all_tell_the_same_version(citation):
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)\b", read("CHANGELOG.md"), re.MULTILINE)[1]
    assert citation["version"] == newest
    project = tomllib.loads(read("pyproject.toml")).get("project", {})
    assert project.get("version", newest) == newest


def test_the_licence_is_mit_and_of_those_who_are_cited(citation):
    title, _, notice, _, *text = read("LICENSE").splitlines()
    assert citation["license"] == "MIT"
    assert title == "MIT License"
    assert notice == f"Copyright (c) 2026 {citation['authors'][0]['name']}"
    words = " ".join(text)
    assert words.startswith("Permission is hereby granted, free of charge, to any person")
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in words


def test_the_catalog_says_what_the_rules_have():
    usage = yaml.safe_load(read(".snakemake-workflow-catalog.yml"))["usage"]
    assert usage.keys() == {"software-stack-deployment", "report"}
    files = [ROOT / "Snakefile", *ROOT.glob("workflow/rules/*.smk")]

    def named(keyword: str) -> list[Path]:
        """Files that rules name behind a keyword."""
        pattern = re.compile(rf'^ *{keyword}(?:: *\n? *|=)"(.+)"', re.MULTILINE)
        return [path.parent / name for path in files for name in pattern.findall(path.read_text())]

    images = named("container") + named("containerized")
    assert usage["software-stack-deployment"] == {
        "conda": bool(named("conda")),
        "apptainer": bool(images),
        "apptainer+conda": bool(images),
    }
    assert usage["report"] == bool(named("report"))
    assert named("caption")
    for path in [*named("conda"), *named("report"), *named("caption")]:
        assert path.is_file(), path


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_help_lists_every_target_and_needs_nothing(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy2(ROOT / "Makefile", folder)
    done = subprocess.run(
        ["make", "--no-print-directory", f"--makefile={folder}/Makefile", "help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = [re.fullmatch(r"make (\w+) +(\S.*)", line) for line in done.stdout.splitlines()]
    assert all(told), done.stdout
    targets = re.search(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)[1].split()
    assert sorted(line[1] for line in told) == sorted(targets)
    assert list(folder.iterdir()) == [folder / "Makefile"]


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Names of a document's headings in links, as GitHub makes them."""
    found = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+)$", prose(document), re.MULTILINE):
        text = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def broken_links(document: Path) -> list[str]:
    """Links of a document to files that are not there, or to headings that they do not have."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(document))):
        if re.match(r"[a-z]+:", link):  # elsewhere
            continue
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_between_documents_lead_to_files_and_headings(document):
    assert broken_links(document) == []


def test_a_broken_link_is_found(tmp_path):
    other = "# One: `a.tsv`\n```sh\n# no heading\n```\n## Twice\n## Twice\n"
    (tmp_path / "other.md").write_text(other)
    links = [
        *("other.md", "other.md#one-atsv", "other.md#twice-1", "#here", "https://example.org/gone"),
        *("gone.md", "other.md#no-heading", "other.md#twice-2", "#there"),
    ]
    document = tmp_path / "document.md"
    text = " ".join(f"[text]({link})" for link in links)
    document.write_text(f"# Here\n{text} `[code](gone)`\n```\n[code](gone)\n```\n")
    assert broken_links(document) == links[5:]


def test_what_contributing_names_is_there():
    names = re.findall(r"`([\w.-]+/[\w./-]*)`", prose(ROOT / "CONTRIBUTING.md"))
    assert names
    for name in names:
        assert any((folder / name).exists() for folder in (ROOT, provenance.PACKAGE)), name
