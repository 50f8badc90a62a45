"""What goes from block to block of a model: read as it passes, or changed on its way.

Hooks on the blocks are used, not `output_hidden_states`: transformers puts the last norm into its last entry (5.23),
and what a hook returns takes the place of what the block gave.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from llmkit.errors import InputError
from llmkit.heads import unwrap

Edit = Callable[[int, torch.Tensor], torch.Tensor]


def find_blocks(model: Any) -> list[torch.nn.Module]:
    """Find the blocks of a model, from the first to the last.

    Raises:
        InputError: It has no list of as many as its config says, or is an encoder-decoder, which has two.
    """
    config = unwrap(model).config
    number = getattr(config, "num_hidden_layers", None)
    if not getattr(config, "is_encoder_decoder", False):
        for module in model.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == number:
                return list(module)
    raise InputError(
        f"the blocks of a model of type {config.model_type} are not known; expected a decoder such as gpt2"
    )


@contextlib.contextmanager
def reading(model: Any) -> Iterator[list[torch.Tensor]]:
    """Read the hidden states of the next pass: what goes into the first block, then what each block gives.

    Yields:
        A list that each pass fills anew. Shape of each: (batch, length, hidden)
    """
    blocks, found = find_blocks(model), list[torch.Tensor]()

    def begin(module: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        found[:] = [inputs[0] if inputs else options["hidden_states"]]

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        found.append(_bare(output))

    hooks = [blocks[0].register_forward_pre_hook(begin, with_kwargs=True)]
    hooks += [block.register_forward_hook(keep) for block in blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def editing(model: Any, edit: Edit) -> Iterator[None]:
    """Change what blocks give.

    Args:
        model: The model.
        edit: Gives for the number of a block, from 1, and what it gave what is to go on. Shape: (batch, length, hidden)
    """

    def change(number: int) -> Callable[[torch.nn.Module, Any, Any], Any]:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
            changed = edit(number, _bare(output))
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    hooks = [block.register_forward_hook(change(i)) for i, block in enumerate(find_blocks(model), 1)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _bare(output: Any) -> torch.Tensor:
    """Take the hidden states of what a block gives: a tensor since transformers 5, a tuple before."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, torch.Tensor)
    return found
