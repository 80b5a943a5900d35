"""Models to score with."""

import pytest
import tiny_models
from spillover.models.load import load_model, load_tokenizer


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2", "smollm2"])
def loaded(request, tmp_path_factory):
    if request.param == "smollm2":
        folder = request.getfixturevalue("smollm2")
    else:
        folder = tiny_models.make(tmp_path_factory.mktemp("model"), request.param)
    return load_model(folder, "none", "float32", "cpu"), load_tokenizer(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("model"), "llama")
    return load_model(folder, "none", "float32", "cpu"), load_tokenizer(folder)
