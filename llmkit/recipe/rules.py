"""What a recipe's values must fulfil together, as far as it is certain without touching data or libraries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmkit.recipe.schema import CleanSpec, DataSpec, Recipe, SourceSpec

DATA_ENDINGS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".json", ".gz")
SOURCE_KEYS = ("eval_documents", "origin", "license")  # of one source, beside those of the hub
# key of data -> the objectives in which it acts; the others act in all
ACTING: Mapping[str, tuple[str, ...]] = {
    "label_column": ("classification",),
    "source_column": ("seq2seq",),
    "target_column": ("seq2seq",),
    "source_path": ("seq2seq",),
    "target_path": ("seq2seq",),
    "eval_source_path": ("seq2seq",),
    "eval_target_path": ("seq2seq",),
    "src_lang": ("seq2seq",),
    "tgt_lang": ("seq2seq",),
    "max_target_length": ("seq2seq",),
    "denoising": ("seq2seq",),
    "question_column": ("question-answering",),
    "context_column": ("question-answering",),
    "answers_column": ("question-answering",),
    "stride": ("question-answering",),
    "prompt_column": ("causal-lm",),
    "completion_column": ("causal-lm",),
    "template": ("causal-lm",),
    "pack": ("causal-lm",),
    "end_of_text": ("causal-lm",),
    "masking": ("masked-lm",),
    "text_column": ("causal-lm", "masked-lm", "seq2seq", "classification"),
    "on_long": ("causal-lm", "masked-lm", "seq2seq", "classification"),
}
# objective -> what its evaluations compute where eval.metrics is unset, and what they can
TEXT_METRICS = ("loss", "perplexity", "bits_per_byte")
METRICS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "causal-lm": (TEXT_METRICS, TEXT_METRICS),
    "masked-lm": (("loss", "perplexity"), ("loss", "perplexity")),
    "seq2seq": (TEXT_METRICS, (*TEXT_METRICS, "bleu", "chrf")),
    "classification": (("loss", "accuracy", "f1_macro"), ("loss", "accuracy", "f1_macro")),
    "question-answering": (("loss", "exact_match", "f1"), ("loss", "exact_match", "f1")),
}
CLASSES = ("labels", "problem_type")  # of model, for classification alone
VALUES = ("multi_label_classification", "regression")  # problem types without one right class


@dataclass(frozen=True)
class Breach:
    """Says what is wrong with the first of `keys`, and which keys take part."""

    keys: tuple[str, ...]
    sentence: str


def find_breaches(recipe: Recipe, *, own_data: bool) -> Iterator[Breach]:
    """Find the values that contradict each other or cannot act.

    Args:
        recipe: The recipe.
        own_data: Whether the data sets come from the caller.
    """
    yield from _check_model(recipe)
    yield from _check_data(recipe.data, own_data)
    yield from _check_steps(recipe)
    if not own_data:
        yield from _check_eval(recipe)
    yield from _check_objective(recipe)
    yield from _check_metrics(recipe)
    if recipe.eval.patience is not None and recipe.eval.every_steps is None:
        yield Breach(("eval.patience", "eval.every_steps"), "cannot act without eval.every_steps")


def list_metrics(recipe: Recipe) -> Sequence[str]:
    """List what an evaluation computes: eval.metrics, else what goes with the objective."""
    if recipe.eval.metrics is not None:
        return recipe.eval.metrics
    usual = METRICS[recipe.objective][0]
    return ("loss",) if recipe.model.problem_type in VALUES else usual


def has_examples(recipe: Recipe) -> bool:
    """Tell whether a row of the data is an example of columns, and not a document."""
    if recipe.objective == "causal-lm":
        return any(part.completion_column is not None for part in (recipe.data, *(recipe.data.mix or [])))
    return recipe.objective != "masked-lm" and recipe.data.denoising is None


def predicts_documents(recipe: Recipe) -> bool:
    """Tell whether a causal language model is trained on documents, cut into rows of tokens."""
    return recipe.objective == "causal-lm" and not has_examples(recipe)


def _check_objective(recipe: Recipe) -> Iterator[Breach]:
    """Find keys that cannot act with the objective, and what it needs."""
    objective, data = recipe.objective, recipe.data
    sources: list[tuple[str, SourceSpec]] = [("data", data)]
    sources += [(f"data.mix.{number}", part) for number, part in enumerate(data.mix or [])]
    for place, source in sources:
        fields = type(source).model_fields
        for key in [name for name in ACTING if name in fields]:  # a recipe that was written down has all of them
            if objective not in ACTING[key] and getattr(source, key) != fields[key].default:
                yield Breach((f"{place}.{key}", "objective"), f"cannot act with {objective}")
    labels = recipe.model.labels or []
    if len(set(labels)) < len(labels):
        twice = next(label for i, label in enumerate(labels) if label in labels[:i])
        yield Breach(("model.labels",), f"{twice!r} stands there twice; expected a name for each class")
    for key in CLASSES:
        if getattr(recipe.model, key) is not None and objective != "classification":
            yield Breach((f"model.{key}", "objective"), f"cannot act with {objective}")
    if recipe.eval.generate and objective not in ("causal-lm", "seq2seq"):
        yield Breach(("eval.generate", "objective"), f"cannot act with {objective}")
    if recipe.eval.generate and data.denoising is not None:
        yield Breach(("eval.generate", "data.denoising"), "a model that fills gaps does not write texts yet")
    if recipe.quantization is not None and recipe.adapter is None:
        yield Breach(("quantization", "adapter"), "goes with an adapter; add adapter, or leave it out")
    if recipe.adapter is not None and recipe.model.config is not None:
        yield Breach(("adapter", "model.config"), "goes with model.name: random weights are trained whole")
    if has_examples(recipe):
        yield from _check_examples(recipe, sources)
    elif data.streaming and objective != "causal-lm":
        yield Breach(("data.streaming", "objective"), f"cannot act with {objective}")


def _check_metrics(recipe: Recipe) -> Iterator[Breach]:
    """Find metrics that cannot be computed, or that choose the best model and are not computed."""
    key, name, possible = "objective", str(recipe.objective), METRICS[recipe.objective][1]
    if recipe.model.problem_type in VALUES:
        key, name, possible = "model.problem_type", str(recipe.model.problem_type), ("loss",)
    elif recipe.objective == "seq2seq" and recipe.data.denoising is not None:  # texts with gaps have no translation
        key, name, possible = "data.denoising", "denoising", TEXT_METRICS
    best, computed = recipe.eval.best_metric, list_metrics(recipe)
    wanted = [("eval.metrics", metric) for metric in recipe.eval.metrics or []]
    for place, metric in [*wanted, ("eval.best_metric", best)]:
        if metric not in possible:
            sentence = f"{metric} cannot be computed for {name}; expected {', '.join(possible)}"
            yield Breach((place, key), sentence)
    if best in possible and best not in computed:
        sentence = f"{best} is not among eval.metrics; expected {' or '.join(computed)}"
        yield Breach(("eval.best_metric", "eval.metrics"), sentence)


def _check_examples(recipe: Recipe, sources: Sequence[tuple[str, SourceSpec]]) -> Iterator[Breach]:
    """Find what cannot act where each row is an example, and what an example needs."""
    data = recipe.data
    if recipe.objective != "classification" and data.on_long == "split":
        yield Breach(("data.on_long",), "split cannot act on examples of two parts; expected error, cut or drop")
    for key, value in (("pack", data.pack), ("streaming", data.streaming), ("clean", data.clean != CleanSpec())):
        if value:
            yield Breach((f"data.{key}",), "cannot act on examples of columns")
    for place, source in sources if data.mix is None or data.eval_path is not None else sources[1:]:
        if recipe.objective == "causal-lm":
            if source.completion_column is None:
                yield Breach((f"{place}.completion_column",), "missing; add the column of the completions")
            if (source.prompt_column is None) == (source.template is None):
                wanted = "expected one of the two"
                keys = (f"{place}.prompt_column", f"{place}.template")
                yield Breach(keys, f"goes with completion_column; {wanted}, prompt_column or template")
        paths = (source.source_path, source.target_path)
        if (paths[0] is None) != (paths[1] is None):
            lone = "source_path" if paths[0] is not None else "target_path"
            yield Breach((f"{place}.{lone}",), "given alone; expected source_path and target_path")
    if (data.eval_source_path is None) != (data.eval_target_path is None):
        lone = "eval_source_path" if data.eval_source_path is not None else "eval_target_path"
        yield Breach((f"data.{lone}",), "given alone; expected eval_source_path and eval_target_path")


def _check_model(recipe: Recipe) -> Iterator[Breach]:
    model = recipe.model
    if model.name is None and model.config is None:
        yield Breach(("model.name", "model.config"), "missing; add model.name, or model.config for a new model")
    if model.config is not None:
        kind = model.config.get("model_type")
        if kind is None:
            yield Breach(("model.config.model_type", "model.config"), "missing; add one such as gpt2")
        elif not isinstance(kind, str):
            yield Breach(("model.config.model_type", "model.config"), f"expected text such as gpt2, got {kind!r}")
        for key, given in (("revision", model.revision is not None), ("kwargs", bool(model.kwargs))):
            if given:
                yield Breach((f"model.{key}", "model.config", "model.name"), "goes with model.name, not model.config")
    if model.revision is not None and _is_path(model.name or ""):
        sentence = f"goes with a hub id, and model.name is {_shorten(model.name or '')}"
        yield Breach(("model.revision", "model.name"), sentence)
    if model.dtype == "float64" and recipe.train.mixed_precision == "bf16":
        yield Breach(("train.mixed_precision", "model.dtype"), "bf16 cannot act on float64 weights; expected no")


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~", "runs/", "builtin/", "package:")) or name.count("/") > 1 or "\\" in name


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _check_data(data: DataSpec, own_data: bool) -> Iterator[Breach]:
    if data.path is None and data.mix is None and data.source_path is None and not own_data:
        yield Breach(("data.path", "data.mix"), "missing; add data.path or data.mix")
    yield from _check_hub_keys("data", data)
    for number, part in enumerate(data.mix or []):
        key = f"data.mix.{number}"
        if part.path is None and part.source_path is None and not own_data:
            yield Breach((f"{key}.path",), "missing; add the path of this source")
        yield from _check_hub_keys(key, part)
    weighted = sum(part.weight is not None for part in data.mix or [])
    if data.mix and 0 < weighted < len(data.mix):
        parts = [f"data.mix.{number}.weight" for number in range(len(data.mix))]
        yield Breach(("data.mix", *parts), f"{weighted} of {len(data.mix)} sources have a weight; expected all or none")
    if data.mix:
        for name, value in [*_list_hub_keys(data), *((key, getattr(data, key)) for key in SOURCE_KEYS)]:
            if value:
                yield Breach((f"data.{name}", "data.mix"), "cannot act beside data.mix")
    yield from _check_held_out(data)


def _check_held_out(data: DataSpec) -> Iterator[Breach]:
    """Find what would be held out twice, or of a stream."""
    mix: list[tuple[str, SourceSpec]] = [(f"data.mix.{number}", part) for number, part in enumerate(data.mix or [])]
    sources = mix or [("data", data)]
    documents = [f"{key}.eval_documents" for key, part in sources if part.eval_documents is not None]
    others = ("eval_split", "eval_rows", "eval_path", "eval_source_path")
    other = next((f"data.{key}" for key in others if getattr(data, key) is not None), None)
    if data.mix and documents and other:
        yield Breach((documents[0], other), f"given beside {other}; expected one of the two")
    rows = ["data.eval_rows"] if data.eval_rows is not None else []
    for key in [*rows, *documents] if data.streaming else []:
        sentence = (
            f"a stream has no last {key.rpartition('_')[2]} to hold out; expected data.eval_path or data.eval_split"
        )
        yield Breach((key, "data.streaming"), sentence)


def _check_hub_keys(key: str, source: SourceSpec) -> Iterator[Breach]:
    """Find what is for hub data sets alone, where the path is certainly a file, glob or folder."""
    path = source.path or ""
    is_local = path.lower().endswith(DATA_ENDINGS) or path.startswith((".", "/", "~")) or any(c in path for c in "*?[")
    for name, value in _list_hub_keys(source):
        if value and is_local:
            sentence = f"is for a data set of the hub, and {key}.path is {_shorten(path)}"
            yield Breach((f"{key}.{name}", f"{key}.path"), sentence)


def _list_hub_keys(source: SourceSpec) -> list[tuple[str, object]]:
    split = source.eval_split if isinstance(source, DataSpec) else None
    other_split = source.train_split != "train"
    return [("name", source.name), ("train_split", other_split), ("eval_split", split), ("kwargs", source.kwargs)]


def _check_steps(recipe: Recipe) -> Iterator[Breach]:
    train, schedule = recipe.train, recipe.schedule
    if train.max_steps is None and train.num_epochs is None:
        yield Breach(("train.max_steps", "train.num_epochs"), "missing; add train.max_steps or train.num_epochs")
    steps = train.max_steps
    if steps is not None and schedule.num_warmup_steps > steps:
        sentence = f"{schedule.num_warmup_steps:,} exceeds train.max_steps, {steps:,}"
        yield Breach(("schedule.num_warmup_steps", "train.max_steps"), sentence)
    if steps is not None and (recipe.eval.every_steps or 0) > steps:
        yield Breach(
            ("eval.every_steps", "train.max_steps"), f"{recipe.eval.every_steps:,} exceeds train.max_steps, {steps:,}"
        )
    if schedule.name == "constant" and schedule.num_warmup_steps > 0:
        sentence = "schedule.name constant has no warmup; expected 0, or constant_with_warmup"
        yield Breach(("schedule.num_warmup_steps", "schedule.name"), sentence)
    total, micro = train.global_batch_size, train.micro_batch_size
    if isinstance(micro, int) and total % micro:
        smaller = next(n for n in range(min(micro, total), 0, -1) if total % n == 0)
        larger = next((n for n in range(micro, min(total, 10**6) + 1) if total % n == 0), None)
        near = f"{smaller} or {larger}" if larger is not None else str(smaller)
        sentence = f"{micro:,} does not divide train.global_batch_size, {total:,}; nearest that do: {near}"
        yield Breach(("train.micro_batch_size", "train.global_batch_size"), sentence)


def _check_eval(recipe: Recipe) -> Iterator[Breach]:
    """Find what is set for evaluations that have no data."""
    data, evaluation = recipe.data, recipe.eval
    choices = ("data.eval_split", "data.eval_rows", "data.eval_path", "data.eval_documents", "data.eval_source_path")
    held = any(part.eval_documents is not None for part in data.mix or [])
    if held or any(getattr(data, key.partition(".")[2]) is not None for key in choices):
        return
    other = "data.eval_documents or data.eval_path" if not has_examples(recipe) else "data.eval_path"
    if data.source_path is not None:
        other = "data.eval_source_path and data.eval_target_path"
    joined = f"data.eval_rows, {other}" if " or " in other else f"data.eval_rows or {other}"
    wanted = f"cannot act without evaluation data; add {joined}"
    if evaluation.num_batches is not None:
        yield Breach(("eval.num_batches", *choices), wanted)
    if evaluation.patience is not None:
        yield Breach(("eval.patience", *choices), wanted)
    if evaluation.every_steps is not None and not evaluation.generate:
        yield Breach(("eval.every_steps", "eval.generate", *choices), wanted)
