from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from llmkit import heads, runtime

MEMINFO = Path("/proc/meminfo")


@pytest.mark.parametrize(
    ("family", "given", "length"),
    [
        ("gpt2", {"n_positions": 96}, 96),
        ("bert", {"max_position_embeddings": 77}, 77),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ("t5", {}, None),
        ("bloom", {}, None),
    ],
)
def test_context_length_is_that_of_the_positions(family, given, length):
    assert heads.context_length(AutoConfig.for_model(family, **given)) == length


def test_t5_that_states_its_length_of_training_has_no_end():
    config = AutoConfig.for_model("t5")
    config.n_positions = 512  # as in the config.json of t5-small
    assert heads.context_length(config) is None


@pytest.mark.parametrize(("stated", "length"), [(512, 512), (int(1e30), None), (1e30, None), (None, None), (0, None)])
def test_stated_length_is_none_where_a_tokenizer_has_no_limit(stated, length):
    class Tokenizer:
        model_max_length = stated

    assert heads.stated_length(Tokenizer()) == length


@pytest.mark.skipif(not MEMINFO.exists(), reason="no /proc/meminfo on this system")
def test_free_memory_of_a_cpu_counts_what_the_system_can_take_back():
    with MEMINFO.open() as file:
        stated = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
    free = runtime.free_memory(torch.device("cpu"))
    assert 0 < free <= stated["MemTotal"]
    assert abs(free - stated["MemAvailable"]) < stated["MemTotal"] / 4
