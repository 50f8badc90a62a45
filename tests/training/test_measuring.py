"""What is measured: loss, perplexity, bits per byte, and texts."""

import math

import pytest
import torch

from llmkit.training.measuring import count_bytes, evaluate_loss, sample_texts

TEXTS = ["Once upon a time", "人工智能的未来是什么？", "naïve 👩‍👩‍👧 – “ok”"]


def alone(*values):
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


@pytest.mark.parametrize("text", TEXTS)
def test_count_bytes_sums_to_the_bytes_of_a_text(loaded, text):
    tokenizer = loaded("gpt2").tokenizer
    ids = tokenizer(text)["input_ids"]
    assert int(count_bytes(tokenizer)[ids].sum()) == len(text.encode())


@pytest.mark.parametrize("kind", ["wordpiece", "fallback"])
@pytest.mark.parametrize("text", ["hello cold morning", "今天天气很好"])
def test_count_bytes_counts_spaces_and_no_marks_of_pieces(loaded, kind, text):
    tokenizer = loaded("gpt2", kind).tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    begins = int(
        text.isascii() or kind == "fallback"
    )  # the first token has a space before it, as if it were not the first
    assert int(count_bytes(tokenizer)[ids].sum()) == len(text.encode()) + begins
    specials = [i for i in tokenizer.all_special_ids if i is not None]
    assert int(count_bytes(tokenizer)[specials].sum()) == 0


def test_evaluate_loss_is_the_mean_over_targets_not_over_batches():
    batches = [{"nll": 6.0, "targets": torch.tensor([1, 1, 2])}, {"nll": 1.0, "targets": torch.tensor([0])}]
    found = evaluate_loss(
        lambda b: (torch.tensor(b["nll"]), b["targets"]), batches, num_bytes=torch.tensor([0, 2, 3]), share=alone
    )
    assert found["loss"] == 7 / 4
    assert found["perplexity"] == pytest.approx(math.exp(7 / 4), rel=1e-15)
    assert found["bits_per_byte"] == pytest.approx(7 / math.log(2) / 7, rel=1e-15)


def test_evaluate_loss_of_a_uniform_model_over_bytes_is_eight_bits_a_byte():
    targets = torch.arange(256)
    found = evaluate_loss(
        lambda b: (torch.tensor(256 * math.log(256)), b["targets"]),
        [{"targets": targets}],
        num_bytes=torch.ones(256, dtype=torch.int64),
        share=alone,
    )
    assert found["bits_per_byte"] == pytest.approx(8, rel=1e-6)


def test_sample_texts_leaves_mode_and_random_state_as_they_were(loaded):
    lm = loaded("gpt2")
    lm.model.train()
    try:
        state = torch.random.get_rng_state()
        one = sample_texts(lm.model, lm.tokenizer, ["Once", "今天"], 3, {})
        assert lm.model.training
        assert torch.equal(torch.random.get_rng_state(), state)
        assert one == sample_texts(lm.model, lm.tokenizer, ["Once", "今天"], 3, {})
        assert [sample["prompt"] for sample in one] == ["Once", "今天"]
    finally:
        lm.model.eval()
