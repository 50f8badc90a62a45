"""The head computes logits of targets alone, and the loss and its gradient are those of all logits."""

import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from llmkit.errors import InputError
from llmkit.training import adapting, feeding, objectives

SHAPE = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
SIDES = {f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")}
SIDES |= {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
CAUSAL = ["gpt2", "llama", "gpt_neox", "opt", "bloom", "gemma2", "openai-gpt"]
MASKED = ["bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "xlm", "ernie"]
SEQ2SEQ = ["t5", "mt5", "bart", "marian", "mbart", "pegasus", "m2m_100"]
MORE = {
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
    "gemma2": {"head_dim": 8, "num_key_value_heads": 1},
    "llama": {"num_key_value_heads": 2},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "xlm": {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "mask_token_id": 0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def each_number_of_rows(monkeypatch):
    monkeypatch.setattr(objectives, "WHOLE", 1)


def make(kind):
    """A tiny model of a kind without dropout, float64."""
    torch.manual_seed(3)
    own = T5 if kind in ("t5", "mt5") else SIDES if kind in SEQ2SEQ else SHAPE
    config = AutoConfig.for_model(kind, **{"vocab_size": 41, "pad_token_id": 0, **own, **MORE.get(kind, {})})
    if kind in SEQ2SEQ:
        config.decoder_start_token_id = 2  # not the id of padding
    auto = {"causal-lm": AutoModelForCausalLM, "masked-lm": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
    return auto[objective_of(kind)].from_config(config).double().eval()


def objective_of(kind):
    return "causal-lm" if kind in CAUSAL else "masked-lm" if kind in MASKED else "seq2seq"


def make_batch(model, objective, length=9):
    """Rows of different lengths, of which some tokens are targets."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (3, length), generator=generator)
    mask = (torch.arange(length)[None] < torch.tensor([[length], [4], [7]])).long()
    labels = torch.where((mask == 1) & (torch.rand(ids.shape, generator=generator) < 0.4), ids, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if objective == "seq2seq":
        batch["decoder_input_ids"] = feeding._find_shift(model, 0)(labels)
    return batch


def watch_head(model):
    """The list that is given how many vectors the head sees each time."""
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, args, out: seen.append(out.shape[:-1].numel()))
    return seen


def gradient(loss, model):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


def compare(model, objective, batch):
    """The loss and its gradient beside those of all logits; how many vectors the head saw."""
    seen, found = watch_head(model), objectives.OBJECTIVES[objective]
    ours = gradient(value := found.loss(model, batch, 5), model)
    all_logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, -batch["labels"].shape[1] :]
    labels = objectives._move_to_left(batch["labels"]) if objective == "causal-lm" else batch["labels"]
    whole = objectives.sum_nll(all_logits, labels) / 5
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, gradient(whole, model), rtol=1e-10, atol=1e-13)
    assert seen[1] >= labels.numel()
    return seen[0], found.targets(batch).numel()


@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED, *SEQ2SEQ])
def test_loss_from_the_logits_of_targets_is_that_from_all(kind):
    model, objective = make(kind), objective_of(kind)
    seen, num_targets = compare(model, objective, make_batch(model, objective))
    assert 0 < num_targets < 15
    assert seen == num_targets


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "LORA", "r": 2},
        {"peft_type": "LORA", "r": 2, "modules_to_save": ["lm_head"]},
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
    ],
    ids=str,
)
def test_loss_under_an_adapter_is_that_from_all_logits(changes):
    base = make("gpt2")
    model = adapting.wrap(base, changes, task="generation", seed=1).double().eval()
    seen, num_targets = compare(model, "causal-lm", make_batch(base, "causal-lm"))
    assert seen == num_targets


def test_loss_is_that_from_all_logits_where_no_head_is_given_vectors(monkeypatch):
    model = make("bert")
    monkeypatch.setattr(model, "get_output_embeddings", model.get_input_embeddings)
    seen, num_targets = compare(model, "masked-lm", make_batch(model, "masked-lm"))
    assert seen > num_targets


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_decoder_is_fed_what_the_model_makes_of_labels(kind):
    model = make(kind)
    batch = make_batch(model, "seq2seq")
    batch["labels"][:, 0] = 5  # MBart turns a row around at its last token
    batch["decoder_input_ids"] = feeding._find_shift(model, 0)(batch["labels"])
    ours = objectives.token_loss(model, batch, int((batch["labels"] != -100).sum()))
    theirs = model(**{k: v for k, v in batch.items() if k != "decoder_input_ids"}).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_way_to_feed_a_decoder_goes_to_another_process_without_weights(kind):
    shift, labels = feeding._find_shift(make(kind), 0), torch.tensor([[5, 6, 7, 8], [5, 6, -100, -100]])
    sent = pickle.dumps(shift)
    assert len(sent) < 5000
    assert torch.equal(pickle.loads(sent)(labels), shift(labels))


def test_decoder_that_states_no_first_token_is_refused():
    model = make("m2m_100")
    model.config.decoder_start_token_id = None
    with pytest.raises(InputError) as error:
        feeding._find_shift(model, 0)
    assert str(error.value) == "the model's config states no decoder_start_token_id, with which a decoder begins"


def test_loss_of_a_batch_without_a_target_is_zero_and_has_a_gradient():
    model = make("bert")
    batch = make_batch(model, "masked-lm")
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = objectives.token_loss(model, batch, 1)
    assert float(loss.detach()) == 0
    assert float(gradient(loss, model).abs().max()) == 0


@pytest.mark.parametrize(("whole", "rows"), [(1, 9), (4, 12), (9, 9), (16, 16), (64, 27)])
def test_head_computes_whole_multiples_up_to_all_positions(monkeypatch, whole, rows):
    monkeypatch.setattr(objectives, "WHOLE", whole)
    model = make("bert")
    assert compare(model, "masked-lm", make_batch(model, "masked-lm")) == (rows, 9)


def test_head_computes_all_logits_again_afterwards():
    model = make("gpt2")
    batch = make_batch(model, "causal-lm")
    objectives.causal_lm_loss(model, batch, 1)
    assert model(input_ids=batch["input_ids"]).logits.shape == (3, 9, 41)
    with pytest.raises(IndexError):  # a batch that fails leaves nothing behind
        objectives.causal_lm_loss(model, {**batch, "input_ids": batch["input_ids"][:, :5]}, 1)
    assert model(input_ids=batch["input_ids"]).logits.shape == (3, 9, 41)


def test_compiled_model_keeps_its_shapes_and_a_wrapped_one_is_found():
    model = make("gpt2")
    assert objectives._find_head(model) is model.lm_head
    assert objectives._find_head(torch.nn.DataParallel(model)) is model.lm_head
    assert objectives._config(torch.nn.DataParallel(model)) is model.config
    assert objectives._find_head(torch.compile(model, backend="eager")) is None
    assert objectives._find_head(torch.compile(torch.nn.DataParallel(model), backend="eager")) is None
