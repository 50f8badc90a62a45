"""The checkpoint of a command, and the job that it is loaded for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llmkit.errors import InputError

if TYPE_CHECKING:
    from llmkit.loading import Loaded

Job = TypeVar("Job")


def open_job(
    model: str | None,
    make: Callable[[Loaded], Job],
    *,
    use: str,
    heads: str | Sequence[str],
    languages: str = "",
    **loading: Any,
) -> Job:
    """Load the checkpoint, or the default for a use and its languages, and make a job of it.

    The garbage collector rests meanwhile: what importing and loading make lives as long as the process, and looking
    through it again and again takes a tenth of the time to the first token (docs/reference/speed.md).

    Args:
        model: The checkpoint's name; None takes the default.
        make: Settles the job on what was loaded; it may import what is heavy.
        use: What the default is looked up by.
        heads: The task whose head is wanted, or several.
        languages: Of the default, as "src-tgt".
        **loading: Further arguments of `load`, adapter among them.

    Raises:
        InputError: An adapter has no checkpoint to lie over, or one of `load` and `make`.
    """
    from llmkit.defaults import default_checkpoint
    from llmkit.loading import load

    if model is None and loading["adapter"] is not None:
        raise InputError("an adapter needs the checkpoint that it was made for, got none; expected -m CHECKPOINT")
    gc.disable()
    try:
        name = model if model is not None else default_checkpoint(use, languages)
        return make(load(name, task=heads, **loading))
    finally:
        gc.enable()
        gc.freeze()
