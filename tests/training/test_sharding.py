"""What can be dealt out to several processes, and in which units."""

import pytest
from objective_recipes import objective_recipe

import llmkit
from llmkit.errors import InputError
from llmkit.training import sharding


@pytest.mark.parametrize(
    ("kind", "blocks"), [("causal-lm", ["GPT2Block"]), ("classification", ["BertLayer"]), ("completion", ["GPT2Block"])]
)
def test_blocks_are_dealt_out_and_nothing_around_the_embedding(kind, blocks, tmp_path):
    model = llmkit.build(objective_recipe(kind, tmp_path)).model
    sharding._check_shared(model)
    assert sharding._list_blocks(model) == blocks


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("masked-lm", "bert, in which cls.predictions.bias, cls.predictions.decoder.bias are one"),
        ("seq2seq", "t5, in which shared.weight, encoder.embed_tokens.weight, decoder.embed_tokens.weight.* are one"),
    ],
)
def test_weights_shared_by_other_modules_are_refused(kind, sentence, tmp_path):
    model = llmkit.build(objective_recipe(kind, tmp_path)).model
    with pytest.raises(InputError, match=f"distributed_type: FSDP cannot deal out {sentence}; expected MULTI_GPU"):
        sharding._check_shared(model)
