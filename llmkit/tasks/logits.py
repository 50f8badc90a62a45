"""The logits of a sequence-classification head, in planned batches whose rows are what each gives alone."""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch

from llmkit import batching, runtime
from llmkit.batching import Budget
from llmkit.encoding.segments import Row, encode_texts, find_frame
from llmkit.heads import unwrap
from llmkit.loading import Loaded

# How rows of several lengths are read together:
#   padded  the head takes them padded on the right, as most do
#   pooled  padded through the body; the head reads the last token of each (decoders whose config has no padding id
#           refuse batches: `GenericForSequenceClassification` in transformers 5.23)
#   equal   only rows of one length stand together (XLNet, FNet: their padding shows)
#   alone   each row is a batch
Way = Literal["padded", "pooled", "equal", "alone"]
WAYS: tuple[Way, ...] = ("padded", "pooled", "equal")


class Head:
    """Computes the logits of rows; how they may stand together is found by asking the model, once it matters."""

    def __init__(self, lm: Loaded) -> None:
        self.lm = lm
        self._core = unwrap(lm.model)
        self._takes = frozenset(inspect.signature(self._core.forward).parameters)
        config = lm.model.config.get_text_config()
        fillers = (config.pad_token_id, lm.tokenizer.pad_token_id, 0)
        self._filler = int(next(i for i in fillers if i is not None))
        self._typed = "token_type_ids" in lm.tokenizer.model_input_names and "token_type_ids" in self._takes
        self._way: Way | None = None

    def compute(self, rows: Sequence[Row], budget: Budget) -> torch.Tensor:
        """Compute the logits of rows. Shape: (rows, labels), on the CPU, float64."""
        if len(rows) > 1 and self._way is None:
            with runtime.quiet():
                self._way = self.find_way()
        way: Way = self._way or "alone"
        logits: dict[int, torch.Tensor] = {}
        for group in _group(rows, way):
            found = batching.run(
                [len(rows[i].ids) for i in group],
                budget,
                lambda batch, group=group: self._forward([rows[group[i]] for i in batch], way),  # type: ignore[misc]
                is_full=runtime.is_out_of_memory,
            )
            logits.update(zip(group, found, strict=True))
        return torch.stack([logits[i] for i in range(len(rows))])

    def find_way(self) -> Way:
        """Find the first way in which a short row beside a long one gives what it gives alone."""
        frame = find_frame(self.lm.tokenizer)
        short, long, other = (frame.wrap(ids) for ids in encode_texts(self.lm.tokenizer, ["a", "a b a b a", "b"]))
        alone = self._forward([short], "alone")[0]
        noise = max(torch.finfo(torch.float32).eps, torch.finfo(self.lm.model.dtype).eps) ** 0.5
        for way in WAYS:
            beside = other if way == "equal" else long
            if len(beside.ids) != len(short.ids) and way == "equal":
                beside = short
            try:
                beside_it = self._forward([short, beside], way)[0]
            except torch.OutOfMemoryError:
                raise
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # it does not take such a batch
                continue
            if float((beside_it - alone).norm()) <= noise * float(alone.norm()):
                return way
        return "alone"

    def _forward(self, rows: Sequence[Row], way: Way) -> torch.Tensor:
        given = self._lay_out(rows)
        with torch.inference_mode(), runtime.quiet():
            if way != "pooled" or len(rows) == 1:
                logits = self.lm.model(**given).logits
            else:
                hidden = self._core.base_model(**given).last_hidden_state
                ends = torch.tensor([len(row.ids) - 1 for row in rows], device=hidden.device)
                logits = self._core.score(hidden[torch.arange(len(rows), device=hidden.device), ends])
        found: torch.Tensor = logits.cpu().double()
        return found

    def _lay_out(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Lay rows out as the arguments of a forward pass. Shape of each tensor: (rows, longest)."""
        width, device = max(len(row.ids) for row in rows), self.lm.model.device
        gaps = [width - len(row.ids) for row in rows]
        given: dict[str, Any] = {
            "input_ids": [[*row.ids, *[self._filler] * gap] for row, gap in zip(rows, gaps, strict=True)]
        }
        if "attention_mask" in self._takes:
            given["attention_mask"] = [[1] * (width - gap) + [0] * gap for gap in gaps]
        if self._typed:
            given["token_type_ids"] = [[*row.type_ids, *[0] * gap] for row, gap in zip(rows, gaps, strict=True)]
        given = {name: torch.tensor(values, device=device) for name, values in given.items()}
        return given | ({"use_cache": False} if "use_cache" in self._takes else {})


def _group(rows: Sequence[Row], way: Way) -> list[list[int]]:
    """Group the numbers of rows that may stand in a batch together."""
    if way == "alone":
        return [[i] for i in range(len(rows))]
    if way != "equal":
        return [list(range(len(rows)))]
    return batching.group([len(row.ids) for row in rows])
