"""A key-value cache whose rows come and go: columns of equal length, right-aligned, in memory laid out ahead.

Every row ends at the last column, so a shorter row begins later (left padding) and one write serves all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class ColumnLayer(DynamicLayer):  # type: ignore[misc]
    """A DynamicLayer that writes into memory laid out ahead instead of copying everything at each step.

    `keys` and `values` are views of the part in use. Shape: (rows, heads, columns, head size).
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Lay out memory for `capacity` columns."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._memory = [self._lay_out(states, self.capacity) for states in (key_states, value_states)]
        self.keys, self.values = (memory[:, :, :0] for memory in self._memory)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns and return all of them. Shape of each argument: (rows, heads, new columns, head size)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self._memory[0].shape[2]:
            self._grow(end + end // 2)
        for memory, states in zip(self._memory, (key_states, value_states), strict=True):
            memory[:, :, start:end] = states
        self.keys, self.values = (memory[:, :, :end] for memory in self._memory)
        return self.keys, self.values

    def _grow(self, capacity: int) -> None:
        for i, used in enumerate((self.keys, self.values)):
            self._memory[i] = self._lay_out(used, capacity)
            self._memory[i][:, :, : used.shape[2]] = used

    @staticmethod
    def _lay_out(like: torch.Tensor, capacity: int) -> torch.Tensor:
        rows, heads, _, size = like.shape
        return like.new_zeros(rows, heads, capacity, size)


@dataclass
class Columns:
    """A cache and the first column of each of its rows; what stands before it is padding."""

    cache: Cache
    starts: list[int]

    @property
    def width(self) -> int:
        """The number of columns in use."""
        return int(self.cache.get_seq_length())

    def mask(self, new: int, device: torch.device) -> torch.Tensor | None:
        """Build the attention mask for `new` further columns. Shape: (rows, width + new); None without padding."""
        if not any(self.starts):
            return None
        columns = torch.arange(self.width + new, device=device)
        return (columns >= torch.tensor(self.starts, device=device)[:, None]).long()


def make_columns(starts: list[int], capacity: int) -> Columns:
    """Make an empty cache for rows that begin at these columns."""

    def layer() -> ColumnLayer:
        return ColumnLayer(capacity)

    return Columns(Cache(layer_class_to_replicate=layer), starts)


def regroup(parts: Sequence[tuple[Columns, Sequence[int]]], room: int) -> Columns:
    """Join chosen rows of several caches into one, right-aligned, without columns that no row uses.

    Args:
        parts: Each a cache and the rows to keep of it.
        room: The number of columns to lay out beyond those in use.
    """
    lengths = [part.width - part.starts[row] for part, rows in parts for row in rows]
    width = max(lengths)
    joined = make_columns([width - length for length in lengths], width + room)
    for index in range(len(parts[0][0].cache.layers)):
        layer = ColumnLayer(width + room)
        first = parts[0][0].cache.layers[index]
        layer.lazy_initialization(
            *(states[:1].expand(len(lengths), -1, -1, -1) for states in (first.keys, first.values))
        )
        for which in (0, 1):
            at = 0
            for part, rows in parts:
                source = part.cache.layers[index]
                states = (source.keys, source.values)[which]
                used = min(width, states.shape[2])
                chosen = states if list(rows) == list(range(states.shape[0])) else states[list(rows)]
                layer._memory[which][at : at + len(rows), :, width - used : width] = chosen[
                    :, :, states.shape[2] - used :
                ]
                at += len(rows)
        layer.keys, layer.values = (memory[:, :, :width] for memory in layer._memory)
        joined.cache.layers.append(layer)
    return joined
