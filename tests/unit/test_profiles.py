"""Settings of sites: what they must say of each rule."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_on_a_cluster_every_rule_that_computes_on_a_gpu_asks_for_one():
    rules = "".join(path.read_text() for path in ROOT.glob("workflow/rules/*.smk"))
    bodies = re.split(r"^rule (\w+):$", rules, flags=re.MULTILINE)[1:]
    on_gpus = {
        name for name, body in zip(bodies[::2], bodies[1::2], strict=True) if "gpu=get_gpus" in body
    }
    assert {"train_dpo", "score_items", "answer_prompts"} <= on_gpus
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    asked = {name for name, of in profile["set-resources"].items() if "gpu" in of}
    assert asked == on_gpus
