"""The workflow as a module of another one."""

import subprocess
import sys

import pandas as pd
import pytest
import yaml
from checkout import Workflow
from small_study import study

SNAKEFILE = """
configfile: "outer.yaml"


module spillover:
    snakefile: "clone/Snakefile"
    config: config["spillover"]


use rule * from spillover as spillover_*


rule count:
    default_target: True
    input: "results/tiny/pairs/gender/train.parquet"
    output: "count.txt"
    run:
        import pandas as pd
        with open(output[0], "w") as file:
            file.write(str(len(pd.read_parquet(input[0]))))
"""


@pytest.fixture
def outer(tmp_path, published, tiny_folder):
    """A folder with a workflow that has this one, in a clone, as its module."""
    Workflow(tmp_path / "clone")
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    config = study(published, {"llama-nf4": tiny_folder("llama")})
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump({"own": 1, "spillover": config}))

    def snakemake(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return snakemake


def test_its_rules_run_under_other_names(outer, tmp_path):
    done = outer()
    assert done.returncode == 0, done.stderr
    n = len(pd.read_parquet(tmp_path / "results/tiny/pairs/gender/train.parquet"))
    assert (tmp_path / "count.txt").read_text() == str(n) == "32"
    whole = outer("-n", "spillover_all")
    assert whole.returncode == 0, whole.stderr
    for rule in ("train_dpo", "score_items", "test_contrasts", "write_findings"):
        assert f"spillover_{rule} " in whole.stdout + whole.stderr


def test_its_results_are_in_the_report_of_the_whole(outer, tmp_path):
    done = outer("spillover_findings")
    assert done.returncode == 0, done.stderr
    done = outer("--report", "report.html", "spillover_findings")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "findings.html" in page
    assert "System Message" not in page


def test_its_configuration_is_checked(outer, tmp_path):
    path = tmp_path / "outer.yaml"
    path.write_text(path.read_text().replace("resamples:", "resample:"))
    done = outer("-n")
    assert done.returncode != 0
    assert "unknown key 'resample'" in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
