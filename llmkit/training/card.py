"""The model card: what a model was trained on, how well it predicts held-out text, and what it writes."""

import lzma
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCardData

from llmkit.data import hub
from llmkit.data.preparing import HeldOut
from llmkit.decoding.text import Pieces
from llmkit.loading import Loaded, load
from llmkit.locating import OURS
from llmkit.recipe.rules import predicts_documents
from llmkit.tasks.generation import generate_batch
from llmkit.training import estimating, measuring
from llmkit.training.session import Session

SEEDS = (1, 2, 3)  # of the samples
METRICS = {"f1_macro": "f1"}  # the hub's word, where it is another than ours
PIPELINES = {  # the hub's word for what a model does
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "seq2seq": "translation",
    "classification": "text-classification",
    "question-answering": "question-answering",
}


def write_card(s: Session, folder: Path) -> str:
    """Write the model card of a checkpoint, measured on the weights as they are stored.

    Args:
        s: The run.
        folder: The checkpoint, whole, whether or not it is in its place yet.

    Returns:
        Markdown, with the front matter that the hub reads.
    """
    recipe = s.plan.recipe
    if not predicts_documents(recipe) or recipe.adapter is not None:
        return write_plain_card(s)
    lm = load(folder, device=s.device_name)
    samples = _show_samples(lm, recipe.eval.generate) if recipe.eval.generate else None
    return _join([*_describe(s), _describe_measures(s, lm), samples])


def write_plain_card(s: Session) -> str:
    """Write a model card that measures nothing: it lists what the last evaluation gave."""
    return _join([*_describe(s), _list_metrics(s)])


def _describe(s: Session) -> list[str | None]:
    recipe = s.plan.recipe
    return [f"{_write_head(s)}\n# {recipe.name}", recipe.about, _describe_model(s), _describe_data(s)]


def _join(parts: Sequence[str | None]) -> str:
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _write_head(s: Session) -> str:
    """Write the front matter that the hub reads: what the model does, what it stands on, and what was measured."""
    recipe, task = s.plan.recipe, PIPELINES[s.plan.recipe.objective]
    base = recipe.model.name or ""
    measured_on = ", ".join(part.origin for part in s.plan.data.held_out)
    results = [
        EvalResult(task, measured_on, measured_on, METRICS.get(name, name), value, metric_name=name)
        for name, value in s.state.metrics.items()
    ]
    paths = [source.path for source in recipe.data.mix] if recipe.data.mix else [recipe.data.path]
    languages = s.plan.facts.get("languages")
    data = ModelCardData(
        model_name=recipe.name,
        library_name="transformers" if recipe.adapter is None else "peft",
        base_model=base if hub.is_hub_id(base) and not base.startswith(OURS) else None,
        datasets=[path for path in paths if path and hub.is_hub_id(path)] or None,
        language=[str(code) for code in languages] if isinstance(languages, list) else None,
        pipeline_tag=task,
        tags=["llmkit"],
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _list_metrics(s: Session) -> str | None:
    """List what the last evaluation gave."""
    if not s.state.metrics:
        return None
    sizes = ", ".join(f"{len(part.rows):,} rows of {part.origin}" for part in s.plan.data.held_out)
    rows = [f"| {name} | {value:.4f} |" for name, value in s.state.metrics.items()]
    return "\n".join([f"## Evaluation\n\nOn {sizes}, held out:\n", "| metric | value |", "|---|---|", *rows])


def _describe_model(s: Session) -> str:
    recipe, versions = s.plan.recipe, s.identity["versions"]
    number = estimating.count_parameters(s.plain_model)
    stored = f", stored as {recipe.save.dtype}" if recipe.save.dtype else ""
    model = f"{s.plain_model.config.model_type}, {number:,} parameters{stored}"
    start = f" from the weights of {recipe.model.name}" if recipe.model.name else " from random weights"
    training = f"{recipe.objective}{start}, {s.state.step:,} steps of {recipe.train.global_batch_size:,} sequences"
    rows = [
        ("model", model),
        *([("adapter", _describe_adapter(s, recipe.adapter))] if recipe.adapter is not None else []),
        ("context", f"{recipe.data.max_length:,} tokens in training, vocabulary {len(s.plan.parts.tokenizer):,}"),
        ("training", training),
        (f"{_name_targets(s)} seen", f"{s.state.tokens:,}"),
        ("time", f"{_show_hours(s.state.seconds)} of training"),
        ("hardware", _describe_hardware(s)),
        ("software", ", ".join(f"{name} {versions[name]}" for name in ("llmkit", "torch", "transformers"))),
        ("commit", str(versions.get("commit", "not a working copy"))),
    ]
    return "## Training\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _describe_adapter(s: Session, adapter: Mapping[str, object]) -> str:
    """Describe what lies over the weights of another model, and where that one is named."""
    trained = sum(p.numel() for p in s.plain_model.parameters() if p.requires_grad)
    told = ", ".join(f"{key} {value}" for key, value in adapter.items())
    return f"{told}: {trained:,} parameters, stored without the others, which are those of {s.plan.recipe.model.name}"


def _name_targets(s: Session) -> str:
    """Name what is predicted: each token of a document, or else what the objective makes of an example."""
    return "tokens" if predicts_documents(s.plan.recipe) else "targets"


def _show_hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes // 60} h {minutes % 60} min"


def _describe_hardware(s: Session) -> str:
    versions, number = s.identity["versions"], s.accelerator.num_processes
    if s.accelerator.device.type == "cuda":
        return f"{number} x {torch.cuda.get_device_name(s.accelerator.device)}"
    threads = torch.get_num_threads() * number
    return f"{versions['processor']}, {threads} thread" + ("s" if threads > 1 else "")


def _describe_data(s: Session) -> str:
    data, name, targets = s.plan.data, s.plan.recipe.name, _name_targets(s)
    lines = ["## Data", "", f"| source | licence | documents read | {targets} | seen |", "|---|---|---|---|---|"]
    for (origin, licence), source, share in zip(data.origins, data.ledger.sources, data.shares, strict=True):
        number, seen = "a stream", "-"
        if not source.is_stream and source.trained_on:
            number = f"{source.trained_on:,}"
            times = s.state.tokens * share / source.trained_on
            if targets != "tokens" and data.train.num_rows:  # some of which are drawn anew each time
                times = s.state.step * s.plan.recipe.train.global_batch_size / data.train.num_rows
                times *= 1.0 if source.passes is None else source.passes
            seen = f"{times:.2f} times"
        documents = f"{source.counts.documents:,}"
        lines.append(f"| {origin} | {licence or 'not stated'} | {documents} | {number} | {seen} |")
    lines += [
        "",
        f"`{targets}` can be trained on, those that are held out not among them; the rules by which the texts were",
        f"cleaned stand in the recipe `{name}`.",
    ]
    return "\n".join(lines)


def _describe_measures(s: Session, lm: Loaded) -> str | None:
    """Measure each part of what is held out, and what a compressor makes of the very same bytes."""
    lines = [
        "## Held-out text",
        "",
        "Bits per byte, from the weights as stored: the fewer, the better the model predicts. A context never reaches",
        f"back more than {s.plan.recipe.data.max_length:,} tokens. Uniform over bytes is what knows nothing; `xz -9`",
        "compresses the same bytes as one file.",
        "",
        "| held-out text of | bytes | model | `xz -9` | uniform | model below xz |",
        "|---|---|---|---|---|---|",
    ]
    for part in s.plan.data.held_out:
        bits, text = _measure(s, lm, part)
        if not text:  # rows that predict nothing but ends of text
            continue
        packed = 8 * len(lzma.compress(text, preset=9)) / len(text)
        numbers = f"{bits:.3f} | {packed:.3f} | {math.log2(256):.3f} | {1 - bits / packed:.1%}"
        lines.append(f"| {part.origin} | {len(text):,} | {numbers} |")
    return "\n".join(lines) if s.plan.data.held_out else None


def _measure(s: Session, lm: Loaded, part: HeldOut) -> tuple[float, bytes]:
    """Compute the bits per byte of held-out rows, and the bytes that they predict."""
    pieces, text = Pieces(lm.tokenizer), bytearray()

    def forward(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        moved = {k: v.to(lm.model.device) if torch.is_tensor(v) else v for k, v in batch.items()}
        targets = s.plan.objective.targets(batch)
        ids = targets.tolist()
        text.extend(b"".join(pieces.bytes_of(i, before) for before, i in zip([None, *ids], ids, strict=False)))
        return s.plan.objective.loss(lm.model, moved, 1), targets

    lm.model.eval()
    measured = measuring.evaluate_loss(forward, _read_batches(s, part), s.num_bytes, _sum_alone)
    return measured["bits_per_byte"], bytes(text)


def _sum_alone(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _read_batches(s: Session, part: HeldOut) -> Iterator[dict[str, Any]]:
    micro, size = int(s.plan.recipe.train.micro_batch_size or 1), s.count_measured(len(part.rows))
    for first in range(0, size, micro):
        rows = range(first, min(first + micro, size))
        yield s.plan.parts.data_collator([part.rows[i] for i in rows])


def _show_samples(lm: Loaded, prompts: Sequence[str]) -> str:
    lines = ["## Samples", "", "The first that came, with the defaults of `llmkit generate PROMPT --seed N`."]
    for prompt in prompts:
        for seed in SEEDS:
            made = generate_batch([prompt], model=lm, seed=seed)[0]
            lines += ["", f"Seed {seed}:", "", *_quote(f"**{prompt}**{made.text}")]
    return "\n".join(lines)


def _quote(text: str) -> Iterator[str]:
    return (f"> {line}".rstrip() for line in text.splitlines())
