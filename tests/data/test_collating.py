"""Rows to batches: padding, labels, positions, masks."""

import numpy as np
import pytest
import torch

from llmkit.data.collating import Collator, make_mask
from llmkit.errors import InputError

PAD = 0  # also the end-of-text of these rows, which must be learned
END = 0
LEAST = torch.finfo(torch.float32).min


def row(*documents):
    """A row of documents, each a list of ids."""
    numbers = [np.full(len(document), i, np.int64) for i, document in enumerate(documents)]
    return {"input_ids": np.concatenate(documents), "document_ids": np.concatenate(numbers)}


ROWS = [row([5, 6, END], [7, END], [8]), row([9, END, END])]
KEYS = {
    "position_ids": ["input_ids", "labels", "position_ids", "use_cache"],
    "mask": ["attention_mask", "input_ids", "labels", "position_ids", "use_cache"],
    None: ["attention_mask", "input_ids", "labels"],
}


@pytest.mark.parametrize("isolation", ["position_ids", "mask"])
def test_collator_lays_out_packed_rows(isolation):
    batch = Collator(PAD, isolation)(ROWS)
    assert sorted(batch) == KEYS[isolation]
    assert batch["input_ids"].tolist() == [[5, 6, END, 7, END, 8], [9, END, END, PAD, PAD, PAD]]
    assert batch["labels"].tolist() == [[-100, 6, END, -100, END, -100], [-100, END, END, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 1, 2]]
    assert batch["use_cache"] is False
    assert {batch[key].dtype for key in ("input_ids", "labels", "position_ids")} == {torch.int64}


def test_collator_lays_out_rows_of_one_document():
    batch = Collator(PAD, None)([row([5, 6, END]), row([9, END, END, 4, 3])])
    assert sorted(batch) == KEYS[None]
    assert batch["input_ids"].tolist() == [[5, 6, END, PAD, PAD], [9, END, END, 4, 3]]
    assert batch["labels"].tolist() == [[-100, 6, END, -100, -100], [-100, END, END, 4, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_collator_masks_other_documents_and_later_tokens(dtype):
    mask = Collator(PAD, "mask", mask_dtype=dtype)([row([5, 6], [7]), row([9])])["attention_mask"]
    assert (mask.shape, mask.dtype) == ((2, 1, 3, 3), dtype)
    assert (mask[:, 0] == 0).tolist() == [
        [[True, False, False], [True, True, False], [False, False, True]],
        [[True, False, False], [False, True, False], [False, True, True]],  # padding sees padding
    ]
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(dtype).min}


def test_make_mask_leaves_no_token_without_one_to_see():
    begins = np.array([[1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]], np.bool_)
    mask = make_mask(begins, torch.float32)
    documents = torch.tensor(begins.cumsum(axis=1))
    seen = (documents[:, :, None] == documents[:, None]) & torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.equal(mask, torch.where(seen, 0.0, LEAST)[:, None])
    assert seen.any(-1).all()


def test_collator_counts_documents_by_where_they_change():
    batch = Collator(PAD, "position_ids")([{"input_ids": [1, 2, 3, 4], "document_ids": [3, 3, 4, 4]}])
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 2, -100, 4]]


@pytest.mark.parametrize("make", [list, torch.tensor, np.int32], ids=["lists", "tensors", "int32"])
@pytest.mark.parametrize("isolation", ["position_ids", "mask", None])
def test_collator_takes_rows_as_other_loaders_give_them(make, isolation):
    rows = [row([5, 6, 7]), row([9])]
    given = [{key: make(value.tolist()) for key, value in r.items()} for r in rows]
    batch, expected = Collator(PAD, isolation)(given), Collator(PAD, isolation)(rows)
    assert {k: torch.as_tensor(v).tolist() for k, v in batch.items()} == {
        k: torch.as_tensor(v).tolist() for k, v in expected.items()
    }


def test_collator_takes_rows_without_document_ids_where_nothing_is_packed():
    batch = Collator(PAD, None)([{"input_ids": np.array([5, 6, 7])}])
    assert batch["labels"].tolist() == [[-100, 6, 7]]


@pytest.mark.parametrize("isolation", ["position_ids", "mask"])
def test_collator_raises_when_packed_rows_have_no_document_ids(isolation):
    with pytest.raises(InputError) as caught:
        Collator(PAD, isolation)([ROWS[0], {"input_ids": np.array([5, 6, 7])}])
    assert str(caught.value) == (
        "a row has no document_ids, which keep packed documents apart; expected input_ids and document_ids"
    )
    assert "remove_unused_columns=False" in caught.value.hint


def test_collator_raises_when_nothing_would_keep_documents_apart():
    with pytest.raises(InputError) as caught:
        Collator(PAD, None)(ROWS)
    assert str(caught.value) == "a row holds several documents, and isolation is None; expected one document a row"


def test_collator_does_not_change_the_rows():
    rows = [row([5, 6, END], [7, END])]
    batch = Collator(PAD, "position_ids")(rows)
    batch["input_ids"][:] = 1
    assert rows[0]["input_ids"].tolist() == [5, 6, END, 7, END]
