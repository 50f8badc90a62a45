import pytest
import torch
from conftest import FAMILIES, tiny_model

from llmkit.batching import Budget
from llmkit.scoring import score_continuations

PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5, 8], [7], [1, 5, 9, 2, 6, 5, 3, 5, 8], [2], [3, 1, 4]]
CONTINUATIONS = [[5, 6, 7], [8], [9, 3], [4], [], [5, 6, 8]]


def brute_force(model, prompt, continuation):
    """Score one continuation alone, in float64."""
    if not continuation:
        return []
    with torch.no_grad():
        found = model(torch.tensor([prompt + continuation])).logits[0].double().log_softmax(-1)
    return [float(found[len(prompt) - 1 + i, token]) for i, token in enumerate(continuation)]


@pytest.mark.parametrize("family", FAMILIES)
def test_score_continuations_equals_brute_force(family):
    model = tiny_model(family, 60).double()
    tolerance = 1e-5 if family in ("bloom", "gpt_neo", "gptj") else 1e-9  # they round to float32 inside
    found = score_continuations(model, PROMPTS, CONTINUATIONS)
    for prompt, continuation, scores in zip(PROMPTS, CONTINUATIONS, found, strict=True):
        assert scores == pytest.approx(brute_force(model, prompt, continuation), rel=tolerance)


def test_score_continuations_is_the_same_in_batches_of_any_size():
    model = tiny_model("llama", 60).double()
    wanted = score_continuations(model, PROMPTS, CONTINUATIONS)
    for budget in (Budget(1), Budget(16), Budget(10_000, rows=2)):
        found = score_continuations(model, PROMPTS, CONTINUATIONS, budget)
        for a, b in zip(found, wanted, strict=True):
            assert a == pytest.approx(b, abs=1e-9)


def test_score_continuations_feeds_a_prompt_once_for_all_continuations_of_one_token():
    model, shapes = tiny_model("llama", 60), []
    hook = model.register_forward_pre_hook(
        lambda m, a, given: shapes.append(given["input_ids"].shape), with_kwargs=True
    )
    try:
        score_continuations(model, [[1, 2, 3]] * 4, [[4], [5], [6], [7, 8]])
    finally:
        hook.remove()
    assert shapes == [(2, 4)]


def test_score_continuations_asks_for_no_more_logits_than_it_reads():
    model, widths = tiny_model("llama", 60), []
    hook = model.lm_head.register_forward_hook(lambda m, given, out: widths.append(out.shape[1]))
    try:
        score_continuations(model, [[1] * 50], [[4, 5]])
    finally:
        hook.remove()
    assert widths == [2]


def test_score_continuations_normalizes_in_float32():
    model = tiny_model("gpt2", 60).to(torch.bfloat16)
    found = score_continuations(model, [[1, 2, 3]], [[4]])[0][0]
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3]])).logits[0, -1]
    assert found == pytest.approx(float(logits.float().log_softmax(-1)[4]), abs=1e-6)


def test_score_continuations_gives_nothing_for_nothing():
    model = tiny_model("gpt2", 60)
    assert score_continuations(model, [], []) == []
    assert score_continuations(model, [[1]], [[]]) == [[]]


def test_score_continuations_refuses_a_prompt_without_tokens():
    with pytest.raises(ValueError, match=r"^a prompt has no tokens; expected at least one before a continuation$"):
        score_continuations(tiny_model("gpt2", 60), [[1], []], [[2], [3]])


def test_score_continuations_refuses_lists_of_two_lengths():
    with pytest.raises(ValueError, match="shorter"):
        score_continuations(tiny_model("gpt2", 60), [[1], [2]], [[2]])
