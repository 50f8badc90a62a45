"""What each objective needs, and keys that cannot act with it."""

import pytest

from llmkit.errors import InputError
from llmkit.recipe.reading import dump_recipe, read_recipe
from llmkit.recipe.rules import ACTING, METRICS, has_examples, list_metrics
from llmkit.recipe.schema import DataSpec

OBJECTIVES = ("causal-lm", "masked-lm", "seq2seq", "classification", "question-answering")


def recipe(objective, data=(), **sections):
    """A recipe as a mapping."""
    base = {"version": 1, "objective": objective, "model": {"name": "x"}, "train": {"max_steps": 1}}
    return {**base, "data": {"path": "a.jsonl", **dict(data)}, **sections}


def refuse(mapping):
    """The first sentence of a refusal."""
    with pytest.raises(InputError) as caught:
        read_recipe(mapping)
    return caught.value.details[0] if caught.value.details else str(caught.value)


COLUMNS = {"prompt_column": "p", "completion_column": "c"}
MULTI_LABEL = {"name": "x", "problem_type": "multi_label_classification"}
REGRESSION = {"name": "x", "problem_type": "regression"}
# a value of each key that is not its default
OTHER = {
    "on_long": "cut", "pack": True, "end_of_text": False, "stride": 3, "max_target_length": 9, "denoising": {},
    "masking": {"whole_word": True}, "completion_column": "c", "prompt_column": "p", "template": "{a}",
}  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("key", sorted(ACTING.keys() & DataSpec.model_fields.keys()))
def test_a_key_that_cannot_act_is_refused_at_its_place(objective, key):
    path = {"path": None} if key == "source_path" else {}
    mapping = recipe(objective, {**path, key: OTHER.get(key, "other")})
    if objective not in ACTING[key]:
        assert refuse(mapping) == f"recipe: data.{key}: cannot act with {objective}"


def test_a_key_of_reading_beside_a_mixture_is_for_evaluation_data_alone():
    mix = {"path": None, "mix": [{"path": "a.jsonl"}]}
    for key, value in {"text_column": "body", "clean": {"markdown": True}, "sample_by": "line"}.items():
        sentence = f"recipe: data.{key}: cannot act beside data.mix; expected it in each source there"
        assert refuse(recipe("causal-lm", {**mix, key: value})) == sentence
        assert read_recipe(recipe("causal-lm", {**mix, key: value, "eval_path": "b.jsonl"}))


def test_completions_of_a_mixture_and_of_evaluation_data_have_columns_of_their_own():
    mixed = {"path": None, "mix": [{"path": "a.jsonl", **COLUMNS}]}
    assert read_recipe(recipe("causal-lm", mixed))
    sentence = "recipe: data.completion_column: missing; add the column of the completions"
    assert refuse(recipe("causal-lm", {**mixed, "eval_path": "b.jsonl"})) == sentence
    assert read_recipe(recipe("causal-lm", {**mixed, "eval_path": "b.jsonl", **COLUMNS}))


def test_two_classes_of_one_name_are_refused():
    model = {"name": "x", "labels": ["pos", "neg", "pos"]}
    sentence = "recipe: model.labels: 'pos' stands there twice; expected a name for each class"
    assert refuse(recipe("classification", model=model)) == sentence


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_written_recipe_reads_back_with_the_keys_that_act_alone(objective, tmp_path):
    first = read_recipe(recipe(objective))
    text = dump_recipe(first)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    assert read_recipe(tmp_path / "r.yaml") == first
    assert ("label_column" in text) == (objective == "classification")
    assert ("masking" in text) == (objective == "masked-lm")


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        (recipe("causal-lm", {"completion_column": "c"}), "data.prompt_column: goes with completion_column; expected "
         "one of the two, prompt_column or template"),
        (recipe("causal-lm", {"prompt_column": "p", "completion_column": "c", "pack": True}),
         "data.pack: cannot act on examples of columns"),
        (recipe("seq2seq", {"on_long": "split"}), "data.on_long: split cannot act on examples of two parts; expected "
         "error, cut or drop"),
        (recipe("seq2seq", {"path": None, "source_path": "a"}), "data.source_path: given alone; expected source_path "
         "and target_path"),
        (recipe("seq2seq", {"eval_source_path": "a"}), "data.eval_source_path: given alone; expected eval_source_path "
         "and eval_target_path"),
        (recipe("seq2seq", {"source_path": "a", "target_path": "b"}), "data.source_path: given beside data.path; "
         "expected one of the two"),
        (recipe("masked-lm", {"streaming": True}), "data.streaming: cannot act with masked-lm"),
        (recipe("masked-lm", model={"name": "x", "labels": ["a"]}), "model.labels: cannot act with masked-lm"),
        (recipe("classification", quantization={"load_in_4bit": True}), "quantization: goes with an adapter; add "
         "adapter, or leave it out"),
        (recipe("causal-lm", model={"config": {"model_type": "gpt2"}}, adapter={"peft_type": "LORA"}),
         "adapter: goes with model.name: random weights are trained whole"),
        (recipe("masked-lm", {"eval_rows": 1}, eval={"metrics": ["accuracy"]}), "eval.metrics: accuracy cannot be "
         "computed for masked-lm; expected loss, perplexity"),
        (recipe("seq2seq", {"eval_rows": 1, "denoising": {}}, eval={"metrics": ["loss", "bleu"]}), "eval.metrics: bleu "
         "cannot be computed for denoising; expected loss, perplexity, bits_per_byte"),
        (recipe("classification", {"eval_rows": 1}, model=MULTI_LABEL, eval={"metrics": ["loss", "accuracy"]}),
         "eval.metrics: accuracy cannot be computed for multi_label_classification; expected loss"),
        (recipe("classification", {"eval_rows": 1}, model=REGRESSION, eval={"metrics": ["loss", "f1_macro"]}),
         "eval.metrics: f1_macro cannot be computed for regression; expected loss"),
        (recipe("classification", {"eval_rows": 1}, model=REGRESSION, eval={"best_metric": "accuracy"}),
         "eval.best_metric: accuracy cannot be computed for regression; expected loss"),
        (recipe("seq2seq", {"eval_rows": 1, "denoising": {}}, eval={"best_metric": "chrf"}), "eval.best_metric: chrf "
         "cannot be computed for denoising; expected loss, perplexity, bits_per_byte"),
        (recipe("seq2seq", {"eval_rows": 1}, eval={"best_metric": "bleu"}), "eval.best_metric: bleu is not among "
         "eval.metrics; expected loss or perplexity or bits_per_byte"),
        (recipe("masked-lm", eval={"generate": ["a"]}), "eval.generate: cannot act with masked-lm"),
        (recipe("causal-lm", {"path": None, "mix": [{"path": "a", **COLUMNS}, {"path": "b", "prompt_column": "p"}]}),
         "data.mix.1.completion_column: missing; add the column of the completions"),
        (recipe("causal-lm", eval={"patience": 2, "every_steps": 1, "generate": ["a"]}), "eval.patience: cannot act "
         "without evaluation data; add data.eval_rows, data.eval_documents or data.eval_path"),
        (recipe("classification", eval={"every_steps": 1}),
         "eval.every_steps: cannot act without evaluation data; add data.eval_rows or data.eval_path"),
        (recipe("seq2seq", {"path": None, "source_path": "a", "target_path": "b"}, eval={"every_steps": 1}),
         "eval.every_steps: cannot act without evaluation data; add data.eval_rows or data.eval_source_path and "
         "data.eval_target_path"),
    ],
)  # fmt: skip
def test_what_cannot_act_together_is_one_sentence(mapping, sentence):
    assert refuse(mapping).removeprefix("recipe: ") == sentence


@pytest.mark.parametrize(
    "mapping",
    [
        recipe("causal-lm", train={"max_steps": 9}, schedule={"num_warmup_steps": 9}),
        recipe("causal-lm", {"eval_rows": 1}, train={"max_steps": 9}, eval={"every_steps": 9}),
        recipe("causal-lm", {"eval_rows": 1}, train={"num_epochs": 1}, schedule={"num_warmup_steps": 9},
               eval={"every_steps": 9}),
        recipe("causal-lm", eval={"every_steps": 1, "generate": ["a"]}),
        recipe("causal-lm", model={"name": "x", "dtype": "float64"}),
        recipe("seq2seq", {"eval_rows": 1, "denoising": {}}, eval={"metrics": ["perplexity"],
               "best_metric": "perplexity"}),
        recipe("classification", {"eval_rows": 1}, model=REGRESSION, eval={"metrics": ["loss"]}),
        recipe("causal-lm", train={"max_steps": 1, "mixed_precision": "bf16"}),
    ],
)  # fmt: skip
def test_what_can_act_together_is_accepted(mapping):
    assert read_recipe(mapping).objective == mapping["objective"]


def test_metrics_go_with_the_objective():
    for objective in OBJECTIVES:
        assert list_metrics(read_recipe(recipe(objective))) == METRICS[objective][0]
    several = recipe("classification", model={"name": "x", "problem_type": "multi_label_classification"})
    assert list_metrics(read_recipe(several)) == ("loss",)


def test_documents_and_examples_are_told_apart():
    assert not has_examples(read_recipe(recipe("causal-lm")))
    assert has_examples(read_recipe(recipe("causal-lm", {"prompt_column": "p", "completion_column": "c"})))
    assert not has_examples(read_recipe(recipe("masked-lm")))
    assert not has_examples(read_recipe(recipe("seq2seq", {"denoising": {}})))
    assert all(has_examples(read_recipe(recipe(objective))) for objective in OBJECTIVES[2:])


def test_a_later_file_takes_the_place_of_parallel_ones():
    lower = recipe("seq2seq", {"path": None, "source_path": "a", "target_path": "b"})
    found = read_recipe(lower, {"data.path": "c.tsv"}).data
    assert (found.path, found.source_path, found.target_path) == ("c.tsv", None, None)
