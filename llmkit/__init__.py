"""Pretrain, fine-tune and use GPT-2-class language models: thin wrappers over Hugging Face Transformers."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llmkit.errors import DamagedError, HubError, InputError, LlmkitError, RunError
    from llmkit.loading import Loaded, load
    from llmkit.recipe.reading import read_recipe
    from llmkit.recipe.schema import Recipe
    from llmkit.tasks.generation import generate, generate_batch, stream
    from llmkit.tasks.results import Generation
    from llmkit.training.building import Parts, build
    from llmkit.training.running import Run, train
    from llmkit.training.stopping import Interrupted

# The public names and the module that holds each; it is imported when one of its names is first used (PEP 562).
_HOMES = {
    "DamagedError": "llmkit.errors",
    "HubError": "llmkit.errors",
    "InputError": "llmkit.errors",
    "LlmkitError": "llmkit.errors",
    "RunError": "llmkit.errors",
    "Loaded": "llmkit.loading",
    "load": "llmkit.loading",
    "read_recipe": "llmkit.recipe.reading",
    "Recipe": "llmkit.recipe.schema",
    "generate": "llmkit.tasks.generation",
    "generate_batch": "llmkit.tasks.generation",
    "stream": "llmkit.tasks.generation",
    "Generation": "llmkit.tasks.results",
    "Parts": "llmkit.training.building",
    "build": "llmkit.training.building",
    "Run": "llmkit.training.running",
    "train": "llmkit.training.running",
    "Interrupted": "llmkit.training.stopping",
}

__all__ = [
    "DamagedError",
    "Generation",
    "HubError",
    "InputError",
    "Interrupted",
    "LlmkitError",
    "Loaded",
    "Parts",
    "Recipe",
    "Run",
    "RunError",
    "__version__",
    "build",
    "generate",
    "generate_batch",
    "load",
    "read_recipe",
    "stream",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
