"""What tests of short trainings share."""

import pytest
import tiny_models
import torch


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama whose padding is its end of sequence."""
    return tiny_models.make(tmp_path_factory.mktemp("model"), "llama", pad_is_eos=True)
