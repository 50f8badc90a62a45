"""Windows over a sequence that is longer than a model can take."""

from collections.abc import Iterator

from llmkit.errors import InputError


def spans(length: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Give the windows (start, end) over a sequence, each of at most `size`, neighbours sharing `overlap`.

    The last is the first that reaches the end; a sequence that fits, or is empty, is one window.

    Raises:
        InputError: The overlap is not smaller than the window.
    """
    if not 0 <= overlap < size:
        raise InputError(
            f"windows of {size:,} tokens cannot share {overlap:,}; expected at least 0 and fewer than that"
        )
    start = 0
    while start + size < length:
        yield start, start + size
        start += size - overlap
    yield start, length
