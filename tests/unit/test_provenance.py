import pytest
from spillover import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    (tmp_path / "base.py").write_text('"""Doc."""\nx = 1\n')
    (tmp_path / "middle.py").write_text(
        "from spillover.base import x\nfrom spillover.files import z\n"
    )
    (tmp_path / "top.py").write_text("def f():\n    from spillover import middle\n")
    (tmp_path / "other.py").write_text("y = 2\n")
    (tmp_path / "files.py").write_text("z = 3\n")
    return tmp_path


def test_code_that_is_imported_counts_however_far(package):
    before = provenance.fingerprint("top")
    (package / "base.py").write_text("x = 2\n")
    assert provenance.fingerprint("top") != before


def test_other_code_comments_docstrings_and_layout_do_not_count(package):
    before = provenance.fingerprint("top")
    (package / "other.py").write_text("y = 3\n")
    (package / "files.py").write_text("z = 4\n")
    (package / "base.py").write_text('"""Another."""\n# a comment\n\nx  =  (1)\n')
    assert provenance.fingerprint("top") == before
