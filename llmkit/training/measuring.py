"""What is measured while a model trains: its loss on held-out rows, and texts that it continues."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from llmkit import runtime
from llmkit.data.examples import Example
from llmkit.decoding.text import Pieces
from llmkit.encoding.segments import encode_texts
from llmkit.evaluation.evaluating import measure
from llmkit.evaluation.keys import Task
from llmkit.evaluation.perplexity import Tally
from llmkit.evaluation.planning import plan_examples
from llmkit.loading import Loaded
from llmkit.tasks.generation import generate_batch
from llmkit.tasks.translation import translate_batch

SAMPLE_TOKENS = 64


def count_bytes(tokenizer: Any) -> torch.Tensor:
    """Count the UTF-8 bytes of each id of a vocabulary; a special token has none.

    Half a character counts its own bytes, so that the bytes of a text are the sum of those of its ids. Where what an id
    adds depends on what stands before it, that is a Latin letter: a word that begins counts its space.

    Returns:
        Shape: (vocabulary,), whole numbers.
    """
    pieces, found = Pieces(tokenizer), encode_texts(tokenizer, ["a"])[0]
    before = int(found[-1]) if len(found) else None
    return torch.tensor([len(pieces.bytes_of(i, before)) for i in range(len(tokenizer))])


def evaluate_loss(
    forward: Callable[[dict[str, Any]], tuple[torch.Tensor, torch.Tensor]],
    batches: Iterable[dict[str, Any]],
    num_bytes: torch.Tensor | None,
    share: Callable[..., torch.Tensor],
) -> dict[str, float]:
    """Measure a model on batches: every target counts once, whatever batch it stands in.

    bits_per_byte is the nll of all targets, end-of-text included, over the bytes that they add to the text; unlike the
    loss it does not depend on the vocabulary. Source: Gao et al. 2020, The Pile, section 3.1.

    Args:
        forward: Computes a batch: its summed nll in nats, Shape: (), and its targets, Shape: (targets,).
        batches: What this process measures.
        num_bytes: Bytes of each id, Shape: (vocabulary,); None where targets are no tokens.
        share: Sums numbers over all processes.

    Returns:
        loss (nats a target; of values what classification_loss says), and of tokens perplexity and bits_per_byte.
    """
    nll, count, size = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches:
            batch_nll, targets = forward(batch)
            nll, count = nll + float(batch_nll), count + targets.numel()
            size += int(num_bytes[targets.cpu()].sum()) if num_bytes is not None else 0
    nll, targets_seen, bytes_seen = share(nll, float(count), float(size)).tolist()
    if num_bytes is None:
        return {"loss": nll / max(targets_seen, 1.0)}
    return Tally(nll, int(targets_seen), int(bytes_seen)).metrics()


def evaluate_task(
    model: Any, tokenizer: Any, task: Task, examples: Sequence[Example], facts: Mapping[str, object]
) -> dict[str, float]:
    """Answer examples with the model as it stands, as `llmkit evaluate` does; its mode stays as it was.

    Args:
        model: The model itself.
        tokenizer: Its tokenizer.
        task: What it is asked to do.
        examples: What it is asked.
        facts: What its llmkit.json is to say.

    Returns:
        The task's metrics, exact_match, f1, bleu and chrf from 0 to 100, accuracy and f1_macro from 0 to 1.
    """
    with runtime.evaluating(model):
        found = measure(plan_examples(task, examples), Loaded(model, tokenizer, "", dict(facts)))
    return dict(found.metrics)


def sample_texts(
    model: Any, tokenizer: Any, prompts: list[str], seed: int, facts: Mapping[str, object]
) -> list[dict[str, str]]:
    """Continue prompts with the model as it stands, or translate them; its mode and the random state stay as they were.

    Args:
        model: The model itself.
        tokenizer: Its tokenizer.
        prompts: Their texts.
        seed: Of what is drawn.
        facts: What its llmkit.json is to say.

    Returns:
        Each prompt and its text.
    """
    if not prompts:
        return []
    with runtime.evaluating(model):
        if model.config.is_encoder_decoder:
            loaded = Loaded(model, tokenizer, "", dict(facts))
            texts = [one.text for one in translate_batch(prompts, model=loaded, max_new_tokens=SAMPLE_TOKENS)]
        else:
            made = generate_batch(prompts, model=Loaded(model, tokenizer), seed=seed, max_new_tokens=SAMPLE_TOKENS)
            texts = [one.text for one in made]
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
