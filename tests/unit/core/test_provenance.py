import pytest
from spillover.core import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    files = {
        "core/base.py": '"""Doc."""\nx = 1\n',
        "core/files.py": "z = 3\n",
        "data/middle.py": "from spillover.core.base import x\nfrom spillover.core.files import z\n",
        "data/other.py": "y = 2\n",
        "models/top.py": "def f():\n    from spillover.data import middle\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_code_that_is_imported_counts_however_far(package):
    before = provenance.fingerprint("models.top")
    (package / "core/base.py").write_text("x = 2\n")
    assert provenance.fingerprint("models.top") != before


def test_other_code_comments_docstrings_and_layout_do_not_count(package):
    before = provenance.fingerprint("models.top")
    (package / "data/other.py").write_text("y = 3\n")
    (package / "core/files.py").write_text("z = 4\n")
    (package / "core/base.py").write_text('"""Another."""\n# a comment\n\nx  =  (1)\n')
    assert provenance.fingerprint("models.top") == before
