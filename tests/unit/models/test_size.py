"""Sizes of models against sums done by hand."""

import shutil

import pytest
from spillover.alignment.settings import skeleton
from spillover.models.size import active_parameters, served_bytes


@pytest.mark.parametrize(
    ("architecture", "share"),
    [("mixtral", 2 / 4), ("olmoe", 2 / 4), ("gpt_oss", 2 / 4), ("llama4_text", 1 / 4)],
)
def test_of_a_mixtures_experts_those_chosen_count(tiny_folder, architecture, share):
    model = skeleton(tiny_folder(architecture))
    experts = sum(
        p.numel() for n, p in model.named_parameters() if ".experts." in n and p.dim() > 2
    )
    assert experts > 0
    assert active_parameters(model) == model.num_parameters() - (1 - share) * experts


def test_of_other_models_all_parameters_count(tiny_folder):
    model = skeleton(tiny_folder("llama"))
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64
    assert active_parameters(model) == 2 * layer + 2 * 448 * 64 + 64


def test_bytes_as_served_are_the_files_or_what_the_configuration_says(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    model = skeleton(folder)
    files = served_bytes(folder, model)
    assert files == (folder / "model.safetensors").stat().st_size
    ignored = shutil.ignore_patterns("*.safetensors")
    without = shutil.copytree(folder, tmp_path / "without", ignore=ignored)
    assert served_bytes(without, skeleton(without)) == 4 * model.num_parameters()
    assert files == pytest.approx(4 * model.num_parameters(), rel=0.02)
