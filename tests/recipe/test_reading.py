"""Reading one recipe: what is accepted, and one exact sentence for whatever is wrong."""

import os
import pathlib
import subprocess
import sys

import pytest
from some_recipes import SMALL

from llmkit.errors import InputError
from llmkit.recipe.reading import find_recipes, read_recipe


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text, name="r.yaml"):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def refused(recipe="r.yaml", overrides=(), **options):
    with pytest.raises(InputError) as caught:
        read_recipe(recipe, overrides, **options)
    return [str(caught.value), *caught.value.details]


def change(old, new, text=SMALL):
    assert old in text
    return text.replace(old, new)


def more(lines):
    return SMALL + lines


WITHOUT_DATA = "cannot act without evaluation data; add data.eval_rows, data.eval_documents or data.eval_path"
CONFIG = "  config: {model_type: gpt2, n_layer: 2}\n"
SENTENCES = {
    "empty": ("", "r.yaml: the recipe is empty"),
    "comments alone": ("# nothing\n", "r.yaml: the recipe is empty"),
    "scalar": ("fast\n", "r.yaml: a recipe must be a mapping, got 'fast'"),
    "list": ("- a\n- b\n", "r.yaml: a recipe must be a mapping, got a list of 2"),
    "tab": (change("  path", "\tpath"), "r.yaml:7: tabs are not allowed; indent with spaces"),
    "not YAML": (change("a.jsonl", "[a"), "r.yaml:8: not YAML (expected ',' or ']', but got ':')"),
    "colon": (change("a.jsonl", "a: b"), "r.yaml:7: not YAML (mapping values are not allowed here)"),
    "two documents": (more("---\na: 1\n"), "r.yaml:10: a second document begins; expected one"),
    "NUL": (change("a.jsonl", "a\0b"), "r.yaml:7: the character U+0000 is not allowed in YAML"),
    "NUL escaped": (change("a.jsonl", '"a\\0"'), "r.yaml:7: a NUL or half a surrogate pair is not text"),
    "surrogate": (change("a.jsonl", '"\\ud83d"'), "r.yaml:7: a NUL or half a surrogate pair is not text"),
    "escape beyond Unicode": ('a: "\\U00110000"', "r.yaml:1: not YAML (chr() arg not in range(0x110000))"),
    "escape far beyond": ('a: "\\UFFFFFFFF"', "r.yaml:1: not YAML (Python int too large to convert to C int)"),
    "not UTF-8": (SMALL.encode() + "# 中文\n".encode("gbk"), "r.yaml:10: not UTF-8, got the byte 0xD6"),
    "UTF-16": (SMALL.encode("utf-16"), "r.yaml:1: not UTF-8, got the byte 0xFF"),
    "binary": (bytes(range(256)), "r.yaml:2: not UTF-8, got the byte 0x80"),
    "large": (SMALL + "#" * 10_000_000, "r.yaml: 10.0 MB are too large for a recipe; expected at most 64 kB"),
    "deep list": ("a: " + "[" * 20_000, "r.yaml:1: nested deeper than 40 levels"),
    "deep mapping": ("{a: " * 10_000, "r.yaml:1: nested deeper than 40 levels"),
    "deep dashes": ("- " * 20_000, "r.yaml:1: nested deeper than 40 levels"),
    "long": ("a: [" + "1," * 20_000 + "]", "r.yaml:1: more than 5,000 values"),
    "tag": (change("seed", "seed", "seed: !!int 3\n" + SMALL), "r.yaml:1: tags are not allowed"),
    "python tag": (more("seed: !!python/object:os.system\n"), "r.yaml:10: tags are not allowed"),
    "alias": (change("tokenizer: tok", "tokenizer: *tok"), "r.yaml:5: aliases are not allowed"),
    "anchor": (change("tokenizer: tok", "tokenizer: &t tok"), "r.yaml:5: anchors are not allowed"),
    "merge key": (more("<<: {seed: 1}\n"), "r.yaml:10: unknown key '<<'; expected version, extends, objective, seed, "),
    "duplicate": (more("optim:\n  lr: 1\n  name: SGD\n  lr: 2\n"), "r.yaml:13: duplicate key 'lr' at lines 11 and 13"),
    "duplicate section": (more("data: {path: b}\n"), "r.yaml:10: duplicate key 'data' at lines 6 and 10"),
    "key that is a list": (more("? [a]\n: 1\n"), "r.yaml:10: a key must be plain text"),
    "unknown key": (more("sede: 1\n"), "r.yaml:10: unknown key 'sede'; did you mean 'seed'?"),
    "unknown key in a section": (more("optim: {lrr: 1}\n"), "r.yaml:10: optim: unknown key 'lrr'; did you mean 'lr'?"),
    "unknown key like two": (
        change("path:", "pach:"),
        "r.yaml:7: data: unknown key 'pach'; did you mean 'path' or 'pack'?",
    ),
    "misspelled section": (change("train:", "trian:"), "r.yaml:8: unknown key 'trian'; did you mean 'train'?"),
    "misspelled required key": (
        change("objective", "objektive"),
        "r.yaml:2: unknown key 'objektive'; did you mean 'objective'?",
    ),
    "misspelled choice": (
        change("max_steps", "max_step"),
        "r.yaml:9: train: unknown key 'max_step'; did you mean 'max_steps'?",
    ),
    "hyphens": (more("output-dir: x\n"), "r.yaml:10: unknown key 'output-dir'; did you mean 'output_dir'?"),
    "capitals": (more("Seed: 1\n"), "r.yaml:10: unknown key 'Seed'; did you mean 'seed'?"),
    "key of a section at the top": (more("lr: 1\n"), "r.yaml:10: unknown key 'lr'; it belongs under optim"),
    "key of several sections": (
        more("every_steps: 1\n"),
        "r.yaml:10: unknown key 'every_steps'; it belongs under eval, save or log",
    ),
    "key of another section": (
        change("max_steps: 12", "max_steps: 12\n  patience: 3"),
        "r.yaml:10: train: unknown key 'patience'; it belongs under eval",
    ),
    "key of the top in a section": (
        change("max_steps: 12", "max_steps: 12\n  seed: 3"),
        "r.yaml:10: train: unknown key 'seed'; it belongs at the top",
    ),
    "dotted key": (more("optim.lr: 1\n"), "r.yaml:10: unknown key 'optim.lr'; write lr under optim"),
    "another tool's key": (
        more("optim: {learning_rate: 1}\n"),
        "r.yaml:10: optim: unknown key 'learning_rate'; did you mean optim.lr?",
    ),
    "accumulation": (
        change("max_steps: 12", "max_steps: 12\n  gradient_accumulation_steps: 3"),
        "r.yaml:10: train: unknown key 'gradient_accumulation_steps'; "
        "it follows from train.global_batch_size and train.micro_batch_size",
    ),
    "nothing near": (
        more("save: {zzz: 1}\n"),
        "r.yaml:10: save: unknown key 'zzz'; expected dtype, generation_config, every_steps or keep",
    ),
    "text for a number": (more("optim: {lr: fast}\n"), "r.yaml:10: optim.lr: expected a number, got 'fast'"),
    "quoted number": (more("optim: {lr: '1e-4'}\n"), "r.yaml:10: optim.lr: expected a number, got '1e-4'"),
    "true for a number": (more("optim: {lr: true}\n"), "r.yaml:10: optim.lr: expected a number, got true"),
    "negative": (more("optim: {lr: -1}\n"), "r.yaml:10: optim.lr: expected a number above 0, got -1"),
    "zero": (more("optim: {lr: 0}\n"), "r.yaml:10: optim.lr: expected a number above 0, got 0"),
    "one": (
        change("a.jsonl", "a.jsonl\n  masking: {probability: 1.0}"),
        "r.yaml:8: data.masking.probability: expected a number above 0 and below 1, got 1.0",
    ),
    "no value and a slip": (more("optim:\n  lrr:\n"), "r.yaml:11: optim: unknown key 'lrr'; did you mean 'lr'?"),
    "no space after a colon": (
        more("optim: {lr:1e-2}\n"),
        "r.yaml:10: optim: unknown key 'lr:1e-2'; a key ends in a colon and a space, as in lr: 1e-2",
    ),
    "a full-width colon": (
        more("eval: {every_steps：5}\n"),
        "r.yaml:10: eval: unknown key 'every_steps：5'; a key ends in a colon and a space, as in every_steps: 5",
    ),
    "nan": (more("optim: {lr: .nan}\n"), "r.yaml:10: optim.lr: expected a finite number above 0, got nan"),
    "inf": (more("optim: {lr: .inf}\n"), "r.yaml:10: optim.lr: expected a finite number above 0, got inf"),
    "share": (
        more("optim: {betas: [0.9, 1.5]}\n"),
        "r.yaml:10: optim.betas: expected a list of 2 numbers from 0 to 1, got [0.9, 1.5]",
    ),
    "one beta": (
        more("optim: {betas: [0.9]}\n"),
        "r.yaml:10: optim.betas: expected a list of 2 numbers from 0 to 1, got [0.9]",
    ),
    "no for a number": (change("12", "no"), "r.yaml:9: train.max_steps: expected a whole number, got 'no'"),
    "no steps": (
        change("12", "0"),
        "r.yaml:9: train.max_steps: expected a whole number from 1 to 1,000,000,000,000, got 0",
    ),
    "half a step": (
        change("12", "2.5"),
        "r.yaml:9: train.max_steps: expected a whole number from 1 to 1,000,000,000,000, got 2.5",
    ),
    "true steps": (change("12", "true"), "r.yaml:9: train.max_steps: expected a whole number, got true"),
    "too many steps": (
        change("12", "10000000000000"),
        "r.yaml:9: train.max_steps: expected a whole number from 1 to 1,000,000,000,000, got 10000000000000",
    ),
    "yes for true": (
        change("a.jsonl", "a.jsonl\n  pack: yes"),
        "r.yaml:8: data.pack: expected true or false, got 'yes'",
    ),
    "1 for true": (
        change("a.jsonl", "a.jsonl\n  streaming: 1"),
        "r.yaml:8: data.streaming: expected true or false, got 1",
    ),
    "number for text": (change("a.jsonl", "3"), "r.yaml:7: data.path: expected text, got 3"),
    "no text": (change("a.jsonl", '""'), "r.yaml:7: data.path: expected text, got ''"),
    "wrong choice": (
        change("a.jsonl", "a.jsonl\n  on_long: splitt"),
        "r.yaml:8: data.on_long: expected one of error, cut, split, drop, got 'splitt'; did you mean 'split'?",
    ),
    "choice in capitals": (
        change("a.jsonl", "a.jsonl\n  on_bad: Skip"),
        "r.yaml:8: data.on_bad: expected one of error, skip, got 'Skip'; did you mean 'skip'?",
    ),
    "objective": (
        change("causal-lm", "casual-lm"),
        "r.yaml:2: objective: expected one of causal-lm, masked-lm, seq2seq, classification, question-answering, "
        "got 'casual-lm'; did you mean 'causal-lm'?",
    ),
    "mapping for a list": (
        more("eval: {generate: {a: b}}\n"),
        "r.yaml:10: eval.generate: expected a list, got a mapping",
    ),
    "item of a list": (more("eval:\n  generate:\n  - a\n  - 3\n"), "r.yaml:13: eval.generate.1: expected text, got 3"),
    "empty list": (more("log: {to: []}\n"), "r.yaml:10: log.to: expected at least one item, got []"),
    "text for a section": (more("optim: fast\n"), "r.yaml:10: optim: expected a mapping, got 'fast'"),
    "list for free keys": (
        more("optim: {kwargs: [a]}\n"),
        "r.yaml:10: optim.kwargs: expected a mapping, got a list of 1",
    ),
    "version": (
        change("version: 1", "version: 9"),
        "r.yaml:1: version: version 9 is not known; llmkit 0.1.0 reads version 1",
    ),
    "version as text": (change("version: 1", "version: '1'"), "r.yaml:1: version: expected 1, got '1'"),
    "no version": (change("version: 1\n", ""), "r.yaml: version: missing; add version: 1"),
    "no objective": (
        change("objective: causal-lm\n", ""),
        (
            "r.yaml: objective: missing; add objective: one of causal-lm, masked-lm, seq2seq, classification, "
            "question-answering"
        ),
    ),
    "no model": (
        change("model:\n" + CONFIG + "  tokenizer: tok\n", ""),
        "r.yaml: model.name: missing; add model.name, or model.config for a new model",
    ),
    "no config": (change(CONFIG, ""), "r.yaml:3: model.name: missing; add model.name, or model.config for a new model"),
    "no length": (
        change("train:\n  max_steps: 12\n", ""),
        "r.yaml: train.max_steps: missing; add train.max_steps or train.num_epochs",
    ),
    "no data": (change("data:\n  path: a.jsonl\n", ""), "r.yaml: data.path: missing; add data.path or data.mix"),
    "name and config": (
        change("  tokenizer", "  name: gpt2\n  tokenizer"),
        "r.yaml:4: model.config: given beside model.name; expected one of the two",
    ),
    "steps and epochs": (
        change("12", "12\n  num_epochs: 3"),
        "r.yaml:10: train.num_epochs: given beside train.max_steps; expected one of the two",
    ),
    "path and mix": (
        change("a.jsonl", "a.jsonl\n  mix: [{path: b}]"),
        "r.yaml:8: data.mix: given beside data.path; expected one of the two",
    ),
    "two evaluations": (
        change("a.jsonl", "b\n  eval_split: t\n  eval_rows: 3"),
        "r.yaml:9: data.eval_rows: given beside data.eval_split; expected one of the two",
    ),
    "two kinds of held-out data": (
        change("a.jsonl", "b\n  eval_rows: 3\n  eval_documents: 2"),
        "r.yaml:9: data.eval_documents: given beside data.eval_rows; expected one of the two",
    ),
    "documents beside another file": (
        change("a.jsonl", "b\n  eval_documents: 2\n  eval_path: c"),
        "r.yaml:8: data.eval_documents: given beside data.eval_path; expected one of the two",
    ),
    "documents beside a split": (
        change("a.jsonl", "b\n  eval_documents: 2\n  eval_split: t"),
        "r.yaml:8: data.eval_documents: given beside data.eval_split; expected one of the two",
    ),
    "no documents held out": (
        change("a.jsonl", "a.jsonl\n  eval_documents: 0"),
        "r.yaml:8: data.eval_documents: expected a whole number from 1 to 1,000,000,000,000, got 0",
    ),
    "part of a document held out": (
        change("path: a.jsonl", "mix: [{path: b, eval_documents: 0.5}]"),
        "r.yaml:7: data.mix.0.eval_documents: expected a whole number from 1 to 1,000,000,000,000, got 0.5",
    ),
    "origin of two": (
        change("a.jsonl", "a.jsonl\n  origin: [a, b]"),
        "r.yaml:8: data.origin: expected text, got a list of 2",
    ),
    "licence that is empty": (
        change("a.jsonl", "a.jsonl\n  license: ''"),
        "r.yaml:8: data.license: expected text, got ''",
    ),
    "licence in other letters": (
        change("a.jsonl", "a.jsonl\n  licence: MIT"),
        "r.yaml:8: data: unknown key 'licence'; did you mean 'license'?",
    ),
    "paragraphs of no length": (
        change("a.jsonl", "a.jsonl\n  clean: {min_paragraph_chars: 0}"),
        "r.yaml:8: data.clean.min_paragraph_chars: expected a whole number from 1 to 1,000,000,000,000, got 0",
    ),
    "a width to unwrap at": (
        change("a.jsonl", "a.jsonl\n  clean: {unwrap: 70}"),
        "r.yaml:8: data.clean.unwrap: expected true or false, got 70",
    ),
    "no model_type": (
        change("model_type: gpt2, ", ""),
        "r.yaml:4: model.config.model_type: missing; add one such as gpt2",
    ),
    "odd model_type": (
        change("gpt2", "[gpt2]"),
        "r.yaml:4: model.config.model_type: expected text such as gpt2, got ['gpt2']",
    ),
    "revision of a config": (
        change("tokenizer", "revision: main\n  tokenizer"),
        "r.yaml:5: model.revision: goes with model.name, not model.config",
    ),
    "kwargs of a config": (
        change("tokenizer", "kwargs: {a: 1}\n  tokenizer"),
        "r.yaml:5: model.kwargs: goes with model.name, not model.config",
    ),
    "revision of a path": (
        change(CONFIG, "  name: ./m\n  revision: main\n"),
        "r.yaml:5: model.revision: goes with a hub id, and model.name is ./m",
    ),
    "bf16 on float64": (
        change("12", "12\n  mixed_precision: bf16", change("tokenizer", "dtype: float64\n  tokenizer")),
        "r.yaml:11: train.mixed_precision: bf16 cannot act on float64 weights; expected no",
    ),
    "warmup": (
        more("schedule: {num_warmup_steps: 100}\n"),
        "r.yaml:10: schedule.num_warmup_steps: 100 exceeds train.max_steps, 12",
    ),
    "warmup of a constant": (
        more("schedule: {name: constant, num_warmup_steps: 2}\n"),
        "r.yaml:10: schedule.num_warmup_steps: "
        "schedule.name constant has no warmup; expected 0, or constant_with_warmup",
    ),
    "evaluations too rare": (
        change("a.jsonl", "a.jsonl\n  eval_rows: 3", more("eval: {every_steps: 100}\n")),
        "r.yaml:11: eval.every_steps: 100 exceeds train.max_steps, 12",
    ),
    "micro batch": (
        change("12", "12\n  global_batch_size: 48\n  micro_batch_size: 7"),
        "r.yaml:11: train.micro_batch_size: 7 does not divide train.global_batch_size, 48; nearest that do: 6 or 8",
    ),
    "micro batch above the global": (
        change("12", "12\n  micro_batch_size: 64"),
        "r.yaml:10: train.micro_batch_size: 64 does not divide train.global_batch_size, 32; nearest that do: 32",
    ),
    "evaluations without data": (
        more("eval: {every_steps: 4}\n"),
        f"r.yaml:10: eval.every_steps: {WITHOUT_DATA}",
    ),
    "batches without data": (
        more("eval: {num_batches: 4}\n"),
        f"r.yaml:10: eval.num_batches: {WITHOUT_DATA}",
    ),
    "patience": (
        change("a.jsonl", "a.jsonl\n  eval_rows: 3", more("eval: {patience: 100}\n")),
        "r.yaml:11: eval.patience: cannot act without eval.every_steps",
    ),
    "best metric": (
        more("eval: {metrics: [perplexity]}\n"),
        "r.yaml:10: eval.best_metric: loss is not among eval.metrics; expected perplexity",
    ),
    "hub key of a file": (
        change("a.jsonl", "a.jsonl\n  name: zh"),
        "r.yaml:8: data.name: is for a data set of the hub, and data.path is a.jsonl",
    ),
    "split of a file": (
        change("a.jsonl", "./a\n  train_split: all"),
        "r.yaml:8: data.train_split: is for a data set of the hub, and data.path is ./a",
    ),
    "hub key beside a mixture": (
        change("path: a.jsonl", "mix: [{path: b}]\n  kwargs: {a: 1}"),
        "r.yaml:8: data.kwargs: cannot act beside data.mix",
    ),
    "documents beside a mixture": (
        change("path: a.jsonl", "mix: [{path: b}]\n  eval_documents: 3"),
        "r.yaml:8: data.eval_documents: cannot act beside data.mix",
    ),
    "origin beside a mixture": (
        change("path: a.jsonl", "mix: [{path: b}]\n  origin: 小说"),
        "r.yaml:8: data.origin: cannot act beside data.mix",
    ),
    "licence beside a mixture": (
        change("path: a.jsonl", "mix: [{path: b}]\n  license: MIT"),
        "r.yaml:8: data.license: cannot act beside data.mix",
    ),
    "documents of a source beside rows": (
        change("path: a.jsonl", "mix:\n  - path: b\n  - path: c\n    eval_documents: 3\n  eval_rows: 3"),
        "r.yaml:10: data.mix.1.eval_documents: given beside data.eval_rows; expected one of the two",
    ),
    "documents of a source beside another file": (
        change("path: a.jsonl", "eval_path: e\n  mix: [{path: b, eval_documents: 3}]"),
        "r.yaml:8: data.mix.0.eval_documents: given beside data.eval_path; expected one of the two",
    ),
    "source without a path": (
        change("path: a.jsonl", "mix:\n  - text_column: a"),
        "r.yaml:8: data.mix.0.path: missing; add the path of this source",
    ),
    "some weights": (
        change("path: a.jsonl", "mix: [{path: a, weight: 1}, {path: b}]"),
        "r.yaml:7: data.mix: 1 of 2 sources have a weight; expected all or none",
    ),
    "rows of a stream": (
        change("a.jsonl", "user/corpus\n  streaming: true\n  eval_rows: 3"),
        "r.yaml:9: data.eval_rows: a stream has no last rows to hold out; expected data.eval_path or data.eval_split",
    ),
    "documents of a stream": (
        change("a.jsonl", "user/corpus\n  streaming: true\n  eval_documents: 3"),
        "r.yaml:9: data.eval_documents: a stream has no last documents to hold out; "
        "expected data.eval_path or data.eval_split",
    ),
    "documents of a source that is a stream": (
        change("path: a.jsonl", "streaming: true\n  mix: [{path: b}, {path: c, eval_documents: 3}]"),
        "r.yaml:8: data.mix.1.eval_documents: a stream has no last documents to hold out; "
        "expected data.eval_path or data.eval_split",
    ),
    "extends a number": (more("extends: 3\n"), "r.yaml:10: extends: expected a path or a recipe's name, got 3"),
    "parent missing": (
        more("extends: base.yaml\n"),
        "r.yaml:10: extends: recipe not found: base.yaml; did you mean r.yaml?",
    ),
    "extends itself": (more("extends: r.yaml\n"), "r.yaml:10: extends: r.yaml leads back to itself"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_a_wrong_recipe_is_one_sentence(case):
    text, sentence = SENTENCES[case]
    told = refused(write(text))
    assert len(told) == 1
    assert told[0] == sentence or (sentence.endswith(", ") and told[0].startswith(sentence))


ARGUMENTS = {
    "optim.lr=fast": "command line: optim.lr=fast: expected a number, got 'fast'",
    "optm.lr=1": "command line: optm.lr=1: unknown key 'optm'; did you mean 'optim'?",
    "lr=1": "command line: lr=1: unknown key 'lr'; it belongs under optim",
    "optim.lr": "command line: expected key=value, got 'optim.lr'",
    "=1": "command line: =1: expected key=value, with a key such as optim.lr",
    "optim..lr=1": "command line: optim..lr=1: expected key=value, with a key such as optim.lr",
    "optim.lr=": "command line: optim.lr=: expected a value after =; null takes the key back",
    "optim.lr=[": "command line: optim.lr=[: not YAML (expected the node content, but found 'stream end')",
    "optim.lr=!!float 3": "command line: optim.lr=!!float 3: expected a number, got '!!float 3'",
    "seed={a: 1, a: 2}": "command line: seed={a: 1, a: 2}: duplicate key 'a'",
    "data.mix.0.path=b": "command line: data.mix.0.path=b: expected a list, got a mapping",
    "eval.generate.0=b": "command line: eval.generate.0=b: no item 0; eval.generate has no items",
    "train.max_steps=null": "r.yaml:8: train.max_steps: missing; add train.max_steps or train.num_epochs",
    "schedule.num_warmup_steps=13": "command line: schedule.num_warmup_steps=13: 13 exceeds train.max_steps, 12",
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_a_wrong_argument_is_one_sentence(argument):
    write(SMALL + ("eval: {generate: []}\n" if "generate" in argument else ""))
    told = refused(overrides=[argument])
    assert ARGUMENTS[argument] in told
    assert len(told) == 1 or argument == "seed={a: 1, a: 2}"


def test_all_problems_are_told_at_once_in_the_order_of_their_lines():
    write(
        more(
            "optim: {lr: fast, lerning_rate: 1}\nsave: {keep: 0}\nlog: {to: [x]}\n"
            "schedule: {num_warmup_steps: 99}\neval: {patience: 2.5}\n"
        )
    )
    assert refused(overrides=["sede=1"]) == [
        "r.yaml has 7 problems",
        "r.yaml:10: optim.lr: expected a number, got 'fast'",
        "r.yaml:10: optim: unknown key 'lerning_rate'; did you mean optim.lr?",
        "r.yaml:11: save.keep: expected a whole number from 1 to 1,000,000,000,000, got 0",
        "r.yaml:12: log.to.0: expected one of jsonl, tensorboard, wandb, mlflow, swanlab, got 'x'",
        "r.yaml:13: schedule.num_warmup_steps: 99 exceeds train.max_steps, 12",
        "r.yaml:14: eval.patience: expected a whole number from 1 to 1,000,000,000,000, got 2.5",
        "command line: sede=1: unknown key 'sede'; did you mean 'seed'?",
    ]


def test_twenty_problems_are_shown_and_the_rest_counted():
    told = refused(write(more("".join(f"x{i}: 1\n" for i in range(30)))))
    assert (told[0], len(told), told[-1]) == ("r.yaml has 30 problems", 22, "and 10 more")


def test_a_rule_is_silent_about_a_key_that_is_wrong_itself():
    write(
        change("12", "fast\n  micro_batch_size: 5\n  global_batch_size: x", more("schedule: {num_warmup_steps: 40}\n"))
    )
    assert len(refused()) == 3


def test_values_are_those_of_yaml_1_2():
    recipe = read_recipe(
        write(
            change(
                "n_layer: 2",
                "a: 1e-4, b: no, c: 1:30, d: 0o17, e: 0x1f, f: 017, g: -.inf, h: ~, "
                "i: 2026-01-01, j: 1_0, k: .5e3, l: 'x', m: True, n: 0",
            )
        )
    )
    assert recipe.model.config == {
        "model_type": "gpt2", "a": 1e-4, "b": "no", "c": "1:30", "d": 15, "e": 31, "f": 17,
        "g": float("-inf"), "h": None,
        "i": "2026-01-01", "j": "1_0", "k": 500.0, "l": "x", "m": True, "n": 0,
    }  # fmt: skip


def test_a_number_may_be_written_without_a_point():
    recipe = read_recipe(write(more("optim: {lr: 1e-4, weight_decay: 0}\n")))
    assert (recipe.optim.lr, recipe.optim.weight_decay) == (1e-4, 0.0)


def test_bom_chinese_and_windows_line_ends_are_read():
    text = change("a.jsonl", "语料/红楼梦.txt").replace("\n", "\r\n")
    assert read_recipe(write(b"\xef\xbb\xbf" + text.encode())).data.path == "语料/红楼梦.txt"


def test_an_empty_section_is_as_if_it_were_not_there():
    assert read_recipe(write(more("optim:\nschedule: {}\n"))) == read_recipe(write(SMALL, "s.yaml"))


def test_origins_name_file_and_line_of_what_was_given():
    write(more("eval:\n  generate:\n    - a\nsave:\n  keep: null\n"))
    recipe = read_recipe("r.yaml", ["optim.lr=1e-4", "model.config.n_layer=3"])
    assert recipe.origins == {
        "version": "r.yaml:1",
        "objective": "r.yaml:2",
        "model.config.model_type": "r.yaml:4",
        "model.config.n_layer": "command line",
        "model.tokenizer": "r.yaml:5",
        "data.path": "r.yaml:7",
        "train.max_steps": "r.yaml:9",
        "eval.generate": "r.yaml:11",
        "optim.lr": "command line",
    }


def test_a_file_is_called_what_the_user_called_it(tmp_path):
    name = write(change("12", "x"), "some/where/r.yaml")
    assert refused(name)[0].startswith("some/where/r.yaml:9: ")
    assert refused(tmp_path / name)[0].startswith(f"{tmp_path}/some/where/r.yaml:9: ")
    write(SMALL, name)
    assert (read_recipe(name).name, read_recipe(name).file) == ("r", name)


def test_a_missing_recipe_names_the_nearest():
    write(SMALL, "sub/small.yaml")
    with pytest.raises(InputError, match=r"^recipe not found: sub/smal\.yaml$") as caught:
        read_recipe("sub/smal.yaml")
    assert caught.value.hint == "did you mean sub/small.yaml?"
    with pytest.raises(InputError, match=r"^recipe not found: shakespear-small$") as caught:
        read_recipe("shakespear-small")
    assert caught.value.hint == "did you mean shakespeare-small?"
    with pytest.raises(InputError) as caught:
        read_recipe("q")
    assert caught.value.hint == "llmkit recipes list prints the names"


@pytest.mark.parametrize(("name", "sentence"), [
    ("", "recipe not found: ''"),
    ("x" * 5000, "recipe not found: " + "x" * 39 + "…"),
    ("a\0b", "recipe not found: a\\x00b"),
    (".", ". is a folder; expected a recipe's file or name"),
])  # fmt: skip
def test_a_name_that_cannot_be_a_recipe_is_a_sentence(name, sentence):
    assert refused(name) == [sentence]


def test_what_is_no_regular_file_is_not_opened():
    os.mkfifo("pipe.yaml")
    assert refused("pipe.yaml") == ["pipe.yaml: not a regular file"]
    assert refused("/dev/zero") == ["/dev/zero: not a regular file"]


def test_a_file_stands_before_a_name(tmp_path):
    name = next(iter(find_recipes()))
    write(change("12", "77"), name)
    assert read_recipe(name).train.max_steps == 77
    pathlib.Path(name).unlink()
    pathlib.Path(name).mkdir()
    assert read_recipe(name, own_data=True).train.max_steps != 77


def test_a_mapping_is_a_recipe():
    mapping = {"version": 1, "objective": "causal-lm", "model": {"name": pathlib.Path("m")}, "train": {"max_steps": 3}}
    recipe = read_recipe(mapping, {"data.path": pathlib.Path("a.txt"), "optim": {"betas": (0.5, 0.6)}})
    assert (recipe.model.name, recipe.data.path, recipe.optim.betas, recipe.name) == (
        "m",
        "a.txt",
        (0.5, 0.6),
        "recipe",
    )
    assert recipe.origins["optim.betas"] == "command line"
    assert recipe.origins["model.name"] == "recipe"


@pytest.mark.parametrize(("changed", "sentence"), [
    ({"seed": 1.5}, "recipe: seed: expected a whole number from 0 to 2,147,483,647, got 1.5"),
    ({"seed": {1}}, "recipe: a value of type set has no form in YAML"),
    ({"seed": 10**5000}, "recipe: a number of more than 400 digits"),
    ({3: 1}, "recipe: a key must be text, got 3"),
    ({"output_dir": "a\ud800"}, "recipe: a NUL or half a surrogate pair is not text"),
])  # fmt: skip
def test_a_wrong_mapping_is_one_sentence(changed, sentence):
    mapping = {"version": 1, "objective": "causal-lm", "model": {"name": "m"}, "train": {"max_steps": 3}}
    assert refused(mapping | changed, own_data=True) == [sentence]


def test_a_mapping_that_holds_itself_is_one_sentence():
    mapping: dict = {"version": 1}
    mapping["model"] = mapping
    assert refused(mapping) == ["recipe: nested deeper than 40 levels"]


def test_data_of_the_caller_need_not_be_named():
    text = change("data:\n  path: a.jsonl\n", "", more("eval: {every_steps: 3, patience: 2}\n"))
    assert read_recipe(write(text), own_data=True).data.path is None


@pytest.mark.parametrize("held", ["path: b\n  eval_documents: 3", "mix: [{path: a, eval_documents: 3}, {path: b}]"])
def test_documents_held_out_are_data_to_evaluate_on(held):
    text = change("path: a.jsonl", held, more("eval: {every_steps: 3, num_batches: 2, patience: 2}\n"))
    assert read_recipe(write(text)).eval.patience == 2


def test_a_source_says_where_its_texts_come_from():
    keys = "origin: 红楼梦\n  license: 公有领域\n  clean: {unwrap: true, min_paragraph_chars: 20}"
    data = read_recipe(write(change("a.jsonl", f"a.jsonl\n  {keys}"))).data
    assert (data.origin, data.license, data.eval_documents) == ("红楼梦", "公有领域", None)
    assert (data.clean.unwrap, data.clean.min_paragraph_chars) == (True, 20)


def test_what_comes_with_llmkit_is_found_by_name():
    assert read_recipe("shakespeare-small", ["data.path=a.txt"]).name == "shakespeare-small"


def test_a_recipe_is_read_without_anything_heavy():
    code = """
import sys
from llmkit.errors import InputError
from llmkit.recipe.reading import read_recipe
try:
    read_recipe({"version": 1, "sede": 3})
except InputError as err:
    print(len(err.details), [m for m in ("torch", "transformers", "datasets", "numpy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5 []\n"
