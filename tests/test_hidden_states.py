import pytest
import torch
import transformers
from conftest import SHAPES

from llmkit.errors import InputError
from llmkit.hidden_states import editing, find_blocks, reading

IDS = torch.tensor([[5, 9, 2, 7, 1], [3, 3, 8, 0, 4]])


def make(family):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, vocab_size=32, **SHAPES[family])
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gptj", "gpt_neox", "llama"])
def test_what_is_read_is_what_transformers_gives_but_for_its_last_norm(family):
    model = make(family)
    with torch.no_grad(), reading(model) as states:
        theirs = model(IDS, output_hidden_states=True).hidden_states
    assert len(states) == len(theirs) == len(find_blocks(model)) + 1
    for mine, other in zip(states[:-1], theirs[:-1], strict=True):
        assert torch.equal(mine, other)
    assert not torch.allclose(states[-1], theirs[-1])


def test_reading_fills_its_list_anew_and_leaves_no_hook():
    model = make("gpt2")
    with torch.no_grad(), reading(model) as states:
        model(IDS)
        model(IDS[:1])
        assert [tuple(one.shape) for one in states] == [(1, 5, 32)] * 3
    with torch.no_grad():
        model(IDS)
    assert len(states) == 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_goes_on_through_the_later_blocks(family):
    model, seen = make(family), []

    def edit(layer, x):
        seen.append((layer, tuple(x.shape)))
        return x + 1 if layer == 1 else x

    with torch.no_grad():
        before = model(IDS).logits
        with editing(model, edit), reading(model) as states:
            after = model(IDS).logits
        with editing(model, lambda layer, x: x):
            same = model(IDS).logits
    assert seen == [(1, (2, 5, 32)), (2, (2, 5, 32))]
    assert len(states) == 3
    assert torch.equal(before, same)
    assert not torch.allclose(before, after)


def test_a_block_that_gives_a_tuple_keeps_the_rest_of_it():
    class Block(torch.nn.Module):
        def forward(self, x):
            return x * 2, "attention"

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = transformers.PretrainedConfig(num_hidden_layers=1)
            self.blocks = torch.nn.ModuleList([Block()])

        def forward(self, x):
            return self.blocks[0](x)

    model, x = Model(), torch.ones(1, 1, 2)
    with editing(model, lambda layer, x: x + 5):
        changed, rest = model(x)
    assert (changed.tolist(), rest) == ([[[7.0, 7.0]]], "attention")
    with reading(model) as states:
        model(x)
    assert [one.tolist() for one in states] == [[[[1.0, 1.0]]], [[[2.0, 2.0]]]]


def test_an_encoder_decoder_is_refused():
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=32)
    with pytest.raises(InputError, match=r"^the blocks of a model of type t5 are not known; expected a decoder"):
        find_blocks(transformers.T5ForConditionalGeneration(config))
