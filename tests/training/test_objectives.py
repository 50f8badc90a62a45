"""The loss: from logits, over the targets of the whole batch, however it is split."""

import types

import pytest
import torch

from llmkit.training import objectives
from llmkit.training.objectives import causal_targets


def causal_lm_loss(logits, labels, num_targets):
    """The loss of a model that gives these logits."""
    return objectives.causal_lm_loss(lambda: types.SimpleNamespace(logits=logits), {"labels": labels}, num_targets)


def rows(lengths, vocab=11, width=None, dtype=torch.float64):
    """Logits and labels of rows of these lengths, padded on the right."""
    generator = torch.Generator().manual_seed(len(lengths))
    width = width or max(lengths)
    logits = torch.randn(len(lengths), width, vocab, generator=generator, dtype=dtype)
    labels = torch.randint(vocab, (len(lengths), width), generator=generator)
    for i, length in enumerate(lengths):
        labels[i, length:] = -100
    labels[:, 0] = -100
    return logits, labels


def test_causal_lm_loss_is_the_mean_surprisal_of_each_next_token():
    logits, labels = rows([5, 3, 7])
    probabilities = logits.softmax(-1)
    expected, count = 0.0, 0
    for i, length in enumerate([5, 3, 7]):
        for t in range(1, length):
            expected -= torch.log(probabilities[i, t - 1, labels[i, t]])
            count += 1
    assert causal_targets({"labels": labels}).numel() == count == 12
    torch.testing.assert_close(causal_lm_loss((logits), labels, count), expected / count, rtol=0, atol=1e-12)


def test_causal_lm_loss_is_computed_in_float32_for_bfloat16_logits_and_kept_in_float64():
    logits, labels = rows([9, 9], dtype=torch.float64)
    low = causal_lm_loss((logits.bfloat16()), labels, 16)
    assert low.dtype == torch.float32
    assert low == causal_lm_loss((logits.bfloat16().float()), labels, 16)
    assert causal_lm_loss((logits), labels, 16).dtype == torch.float64


@pytest.mark.parametrize("size", [1, 2, 4])
def test_causal_lm_loss_of_parts_sums_to_that_of_the_whole(size):
    """Lengths of 2 to 100, as they are where the mean of the means is a third off."""
    lengths = [2, 100, 3, 7, 50, 2, 90, 31]
    weight = torch.randn(11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits, labels = rows(lengths)

    def gradient(parts, counts):
        leaf = weight.clone().requires_grad_()
        for (x, y), n in zip(parts, counts, strict=True):
            causal_lm_loss((x @ leaf), y, n).backward()
        return leaf.grad

    parts = [(logits[i : i + size], labels[i : i + size]) for i in range(0, 8, size)]
    total = causal_targets({"labels": labels}).numel()
    whole = gradient([(logits, labels)], [total])
    torch.testing.assert_close(gradient(parts, [total] * len(parts)), whole, rtol=1e-12, atol=1e-14)
    naive = gradient(parts, [causal_targets({"labels": y}).numel() * len(parts) for _, y in parts])
    assert float((naive - whole).norm() / whole.norm()) > 0.02


def test_causal_targets_leaves_out_what_nothing_predicts():
    labels = torch.tensor([[7, 8, -100, 9], [1, -100, -100, -100]])
    assert causal_targets({"labels": labels}).tolist() == [8, 9]


def test_causal_lm_loss_equals_transformers_own(loaded):
    model = loaded("gpt2").model
    ids = torch.arange(2 * 12).reshape(2, 12)
    with torch.no_grad():
        theirs = model(ids, labels=ids).loss
        ours = objectives.causal_lm_loss(model, {"input_ids": ids, "labels": ids}, 22)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


# --- the other objectives, each beside its formula in a few lines


def model_of(**outputs):
    """A model that gives these outputs, whatever it is fed."""
    fed = {}

    def forward(**batch):
        fed.update(batch)
        return types.SimpleNamespace(**outputs)

    forward.config, forward.fed = types.SimpleNamespace(problem_type=outputs.pop("problem_type", None)), fed
    return forward


def test_token_loss_counts_labels_where_they_stand():
    logits, labels = rows([5, 3, 7])
    found = objectives.token_loss(model_of(logits=logits), {"labels": labels}, 3)
    log_probabilities = logits.log_softmax(-1)
    chosen = [(i, t) for i in range(3) for t in range(7) if labels[i, t] != -100]
    expected = -sum(log_probabilities[i, t, labels[i, t]] for i, t in chosen) / 3
    assert objectives.token_targets({"labels": labels}).numel() == len(chosen) == 12
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_classification_loss_is_the_surprisal_of_the_class():
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2, 1, 2])
    found = objectives.classification_loss(model_of(logits=logits), {"labels": labels}, 4)
    expected = -sum(logits.log_softmax(-1)[i, label] for i, label in enumerate(labels)) / 4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_classification_loss_of_several_labels_is_that_of_each():
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    model = model_of(logits=logits, problem_type="multi_label_classification")
    found = objectives.classification_loss(model, {"labels": labels}, 12)
    p = logits.sigmoid()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum() / 12
    assert objectives.value_targets({"labels": labels}).numel() == 12
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_classification_loss_of_values_is_the_squared_error():
    logits = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    labels = torch.tensor([[1.0], [4.0]])
    model = model_of(logits=logits, problem_type="regression")
    assert float(objectives.classification_loss(model, {"labels": labels}, 2)) == (0.25 + 4.0) / 2


def test_question_answering_loss_is_the_mean_of_both_ends():
    generator = torch.Generator().manual_seed(3)
    start, end = (torch.randn(3, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    batch = {"start_positions": torch.tensor([0, 4, 8]), "end_positions": torch.tensor([0, 5, 8])}
    batch["attention_mask"] = torch.ones(3, 9, dtype=torch.int64)
    found = objectives.question_answering_loss(model_of(start_logits=start, end_logits=end), batch, 3)
    sides = ((start, batch["start_positions"]), (end, batch["end_positions"]))
    expected = -sum(x.log_softmax(-1)[i, p] for x, places in sides for i, p in enumerate(places)) / 6
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_question_answering_loss_of_a_window_is_the_same_beside_a_longer_one():
    start, end = torch.randn(2, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    batch = {"start_positions": torch.tensor([2]), "end_positions": torch.tensor([4])}
    losses = []
    for length in (6, 9):
        mask = (torch.arange(length) < 6).long()[None]
        model = model_of(start_logits=start[:1, :length], end_logits=end[:1, :length])
        losses.append(objectives.question_answering_loss(model, {**batch, "attention_mask": mask}, 1))
    assert torch.equal(*losses)


def test_models_are_not_given_their_labels():
    logits, labels = rows([5])
    model = model_of(logits=logits)
    objectives.token_loss(model, {"input_ids": labels, "labels": labels}, 1)
    assert set(model.fed) == {"input_ids"}
