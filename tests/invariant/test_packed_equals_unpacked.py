"""Packed documents give the loss and the logits that each gives alone, in every family that can keep them apart.

The end of a run lists the families: exact, or refused.
"""

import numpy as np
import pytest
import torch
from conftest import SHAPES, tiny_model
from test_reference import Float64

from llmkit.data.collating import IGNORED, Collator
from llmkit.data.isolating import find_isolation

EXACT = {
    "gpt2": "position_ids",
    "distilgpt2": "position_ids",
    "gpt_neo": "position_ids",
    "gptj": "position_ids",
    "gpt_neox": "position_ids",
    "llama": "position_ids",
    "opt": "mask",
}
REFUSED = ("bloom", "openai-gpt")
WITH_SDPA = ("gpt2", "gpt_neox", "llama", "opt")
CASES = [(family, "eager") for family in EXACT] + [(family, "sdpa") for family in WITH_SDPA]
exact_cases = pytest.mark.parametrize(
    ("family", "attention"), CASES, ids=[f"{family} {attention} exact" for family, attention in CASES]
)
exact_families = pytest.mark.parametrize("family", EXACT, ids=[f"{family} exact" for family in EXACT])

PAD = 0
# Rows of documents by their lengths: of one token, longer than gpt_neo's window, one that fills its row, with padding.
LENGTHS = [[11, 1, 7, 19], [1, 1, 2], [38], [13, 12, 13]]


@pytest.fixture(autouse=True)
def _float64():
    with Float64():
        yield


def make_documents():
    generator = np.random.default_rng(0)
    return [[generator.integers(0, 400, length) for length in row] for row in LENGTHS]


def pack(documents):
    numbers = [np.full(len(document), i) for i, document in enumerate(documents)]
    return {"input_ids": np.concatenate(documents), "document_ids": np.concatenate(numbers)}


def make_pair():
    """A row of two documents, of 11 and of 12 tokens."""
    documents = make_documents()
    return pack([documents[0][0], documents[3][1]])


def make_model(family, attention="eager"):
    model = tiny_model(family, 400).double()
    model.set_attn_implementation(attention)
    return model


def make_batch(family, rows):
    return Collator(PAD, EXACT.get(family), mask_dtype=torch.float64)(rows)


def call(model, batch, **changes):
    """The logits of a batch, called as training calls a model: with all that the collator gives but the labels."""
    arguments = {**batch, **changes}
    labels = arguments.pop("labels")
    return model(**{key: value for key, value in arguments.items() if value is not None}).logits, labels


def compute_loss(logits, labels):
    """The summed nll of the targets, in nats."""
    flat, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(flat, targets, ignore_index=IGNORED, reduction="sum")


def compute_leak(model, batch, **changes):
    """The largest gradient of the loss of a pair's second document with respect to the embeddings of the first."""
    kept = []

    def keep(module, args, out):
        kept.append(out.detach().requires_grad_())
        return kept[0]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    logits, labels = call(model, batch, **changes)
    hook.remove()
    labels = torch.where(torch.arange(23) > 11, labels, IGNORED)
    (gradient,) = torch.autograd.grad(compute_loss(logits, labels), kept[0])
    assert float(gradient[:, 11:-1].abs().amax(-1).min()) > 0  # each token of the document itself counts
    return float(gradient[:, :11].abs().max())


@exact_cases
@torch.no_grad()
def test_packed_logits_are_those_of_each_document_alone(family, attention):
    model, rows = make_model(family, attention), make_documents()
    logits, _ = call(model, make_batch(family, [pack(row) for row in rows]))
    for row, seen in zip(rows, logits, strict=True):
        alone = torch.cat([model(torch.tensor(d)[None], use_cache=False).logits[0] for d in row])
        assert float((seen[: len(alone)] - alone).abs().max()) < 1e-12
        assert seen.isfinite().all()  # at padding too


@exact_cases
@torch.no_grad()
def test_packed_loss_is_the_sum_of_each_document_alone(family, attention):
    model, rows = make_model(family, attention), make_documents()
    packed = compute_loss(*call(model, make_batch(family, [pack(row) for row in rows])))
    alone = [compute_loss(*call(model, Collator(PAD, None)([pack([d])]))) for row in rows for d in row if len(d) > 1]
    num_targets = sum(length - 1 for row in LENGTHS for length in row)
    assert abs(float(packed - sum(alone))) / num_targets < 1e-12
    assert float(packed) / num_targets > 5


@exact_cases
def test_packed_gradients_are_those_of_each_document_alone(family, attention):
    model, rows = make_model(family, attention), make_documents()
    parameters = list(model.parameters())
    packed = torch.autograd.grad(
        compute_loss(*call(model, make_batch(family, [pack(row) for row in rows]))), parameters, allow_unused=True
    )
    total = sum(compute_loss(*call(model, Collator(PAD, None)([pack([d])]))) for row in rows for d in row if len(d) > 1)
    alone = torch.autograd.grad(total, parameters, allow_unused=True)
    scale = max(float(g.abs().max()) for g in alone if g is not None)
    for seen, expected in zip(packed, alone, strict=True):
        assert (seen is None) == (expected is None)
        assert seen is None or float((seen - expected).abs().max()) / scale < 1e-12


@exact_cases
def test_packed_document_has_no_gradient_with_respect_to_the_one_before(family, attention):
    batch = make_batch(family, [make_pair()])
    assert compute_leak(make_model(family, attention), batch) == 0.0


@pytest.mark.parametrize("family", sorted(set(EXACT) - {"opt"}))  # a mask isolates with a cache too
def test_packed_documents_leak_when_a_cache_is_made(family):
    batch = make_batch(family, [make_pair()])
    assert compute_leak(make_model(family), batch, use_cache=None) > 1e-3


@exact_families
def test_packed_documents_leak_when_an_attention_mask_of_ones_is_given(family):
    batch = make_batch(family, [make_pair()])
    ones = torch.ones_like(batch["input_ids"])
    assert compute_leak(make_model(family), batch, attention_mask=ones) > 1e-3


@exact_families
def test_packed_families_are_found(family, record_property):
    assert find_isolation(make_model(family)) == EXACT[family]
    record_property("summary", f"packed documents in {family}: exact, by {EXACT[family]}")


@pytest.mark.parametrize("family", REFUSED, ids=[f"{family} refused" for family in REFUSED])
def test_packed_families_that_leak_are_refused(family, record_property):
    model = make_model(family)
    assert find_isolation(model) is None
    record_property("summary", f"packed documents in {family}: refused")
    batch = Collator(PAD, "position_ids")([make_pair()])
    assert compute_leak(model, batch) > 1e-3


def test_packed_lists_all_families():
    assert {*EXACT, *REFUSED} == set(SHAPES)
