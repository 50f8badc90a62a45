"""The errors that llmkit raises, each one sentence for the person who made the call.

    LlmkitError
    ├── InputError          exit 2   the call, the recipe or the data must be mended; nothing was started
    └── RunError            exit 1   it failed while running
        ├── DamagedError    exit 1   the files of a checkpoint are damaged
        └── HubError        exit 1   the hub cannot give a checkpoint

`hint` is at most one line that answers the next question; `details` are further lines, one a problem, where a recipe
has several.
"""


class LlmkitError(Exception):
    """Carries one sentence, and perhaps a hint and further lines, to the user."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.details = details


class InputError(LlmkitError, ValueError):
    """Says that the call, the recipe or the data must be mended; nothing was started."""

    exit_code = 2


class RunError(LlmkitError, RuntimeError):
    """Says that something failed while running."""


class DamagedError(RunError):
    """Says that the files of a checkpoint are damaged."""


class HubError(RunError):
    """Says that the hub cannot give a checkpoint."""


def shorten(err: BaseException) -> str:
    """Take the first line of a library's error, with the next where it ends in a colon; at most 160 characters."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [type(err).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:160]
