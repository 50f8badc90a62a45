"""Pretrain, fine-tune and use GPT-2-class language models: thin wrappers over Hugging Face Transformers."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llmkit.errors import DamagedError, HubError, InputError, LlmkitError, RunError
    from llmkit.evaluation.comparing import Comparison, compare
    from llmkit.evaluation.evaluating import Evaluation, evaluate
    from llmkit.evaluation.writing import write_evaluation
    from llmkit.loading import Loaded, load
    from llmkit.recipe.reading import read_recipe
    from llmkit.recipe.schema import Recipe
    from llmkit.tasks.answering import answer, answer_batch
    from llmkit.tasks.classification import classify, classify_batch, sentiment, sentiment_batch
    from llmkit.tasks.compat.pipelines import pipeline
    from llmkit.tasks.generation import generate, generate_batch, stream
    from llmkit.tasks.results import Answer, Classification, Generation, Translation
    from llmkit.tasks.translation import translate, translate_batch
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
    "Comparison": "llmkit.evaluation.comparing",
    "compare": "llmkit.evaluation.comparing",
    "Evaluation": "llmkit.evaluation.evaluating",
    "evaluate": "llmkit.evaluation.evaluating",
    "write_evaluation": "llmkit.evaluation.writing",
    "Loaded": "llmkit.loading",
    "load": "llmkit.loading",
    "read_recipe": "llmkit.recipe.reading",
    "Recipe": "llmkit.recipe.schema",
    "answer": "llmkit.tasks.answering",
    "answer_batch": "llmkit.tasks.answering",
    "Answer": "llmkit.tasks.results",
    "classify": "llmkit.tasks.classification",
    "classify_batch": "llmkit.tasks.classification",
    "sentiment": "llmkit.tasks.classification",
    "sentiment_batch": "llmkit.tasks.classification",
    "pipeline": "llmkit.tasks.compat.pipelines",
    "generate": "llmkit.tasks.generation",
    "generate_batch": "llmkit.tasks.generation",
    "stream": "llmkit.tasks.generation",
    "Classification": "llmkit.tasks.results",
    "Generation": "llmkit.tasks.results",
    "Translation": "llmkit.tasks.results",
    "translate": "llmkit.tasks.translation",
    "translate_batch": "llmkit.tasks.translation",
    "Parts": "llmkit.training.building",
    "build": "llmkit.training.building",
    "Run": "llmkit.training.running",
    "train": "llmkit.training.running",
    "Interrupted": "llmkit.training.stopping",
}

__all__ = [
    "Answer",
    "Classification",
    "Comparison",
    "DamagedError",
    "Evaluation",
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
    "Translation",
    "__version__",
    "answer",
    "answer_batch",
    "build",
    "classify",
    "classify_batch",
    "compare",
    "evaluate",
    "generate",
    "generate_batch",
    "load",
    "pipeline",
    "read_recipe",
    "sentiment",
    "sentiment_batch",
    "stream",
    "train",
    "translate",
    "translate_batch",
    "write_evaluation",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
