"""Scores of lm-evaluation-harness, on tasks that the tests write, against the same numbers put together by hand."""

import importlib.util
import json
import logging
import math
import random

import numpy as np
import pytest
import torch
from conftest import tiny_model, wordpiece_tokenizer

from llmkit import Loaded, load
from llmkit.data.order import shuffle_index
from llmkit.encoding.prompts import encode_text
from llmkit.errors import HubError, InputError, RunError
from llmkit.evaluation.harness import evaluate_tasks
from llmkit.evaluation.suites import check_tasks
from llmkit.scoring import score_continuations

CHOICES = {
    "en": [
        (f"{a} {b}", [" down the street.", " of of the", " sea", " and the"])
        for a in ("He went", "The old captain looked", "She turned to him and came")
        for b in ("slowly", "up to the house", "away from the", "again", "with a cry")
    ],
    "zh": [
        (f"{a}{b}", ["系统。", "的未来是", "吃饭", "，我们可以"])
        for a in ("人工智能", "今天天气", "这个命令在 Linux")
        for b in ("", "可以", "很好，", "中使用的", "是一个")
    ],
}
TEXTS = {
    "en": ["It was a cold morning, and the sea was grey. " * 40, "Good morning, said the captain.", "Yes."],
    "zh": ["人工智能的未来是什么？没有人知道。今天天气很好，我们去公园散步吧。" * 25, "你好，世界！", "是。"],
}
MULTIPLE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
    "metadata": {"version": 2.5},
}
LIKELIHOOD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[0]}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ("byte_perplexity", "bits_per_byte")],
}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny():
    return load("builtin/tiny", device="cpu")


@pytest.fixture
def make_task(tmp_path):
    """A function that writes a task and its data, and returns the path of its YAML."""

    def make(name, body, rows=None, **changes):
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        keys = {"task": name, "dataset_path": "json", "test_split": "test", **body}
        if rows is not None:
            data = folder / f"{name}.jsonl"
            data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            keys["dataset_kwargs"] = {"data_files": {"test": str(data)}}
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps({**keys, **changes}, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
        return path

    return make


def choices(language, count=None):
    rows = CHOICES[language][:count]
    return [{"question": q, "choices": c, "answer": i % len(c)} for i, (q, c) in enumerate(rows)]


def score(lm, context, continuation):
    """The log-likelihood of a continuation in nats, its ids being those of the whole that the context's lack."""
    before, whole = encode_text(lm.tokenizer, context), encode_text(lm.tokenizer, context + continuation)
    return sum(score_continuations(lm.model, [before], [whole[len(before) :]])[0])


def roll(lm, text, start, length):
    """The log-likelihood of a text in nats, in windows that each predict `length` tokens or what is left."""
    ids, total, done = encode_text(lm.tokenizer, text), 0.0, 0
    while done < len(ids):
        end = min(done + length, len(ids))
        context = ids[max(end - length - 1, 0) : done] if done else [start]
        total += sum(score_continuations(lm.model, [context], [ids[done:end]])[0])
        done = end
    return total


def refuse(error, call, *arguments, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert type(caught.value) is error
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize("language", ["en", "zh"])
def test_multiple_choice_equals_our_scores(tiny, make_task, language):
    rows = choices(language)
    found = evaluate_tasks(tiny, make_task("mine", MULTIPLE, rows))
    scores = [[score(tiny, row["question"], c) for c in row["choices"]] for row in rows]
    right = [float(np.argmax(s) == row["answer"]) for s, row in zip(scores, rows, strict=True)]
    by_length = [
        [s / len(c) for s, c in zip(ss, row["choices"], strict=True)] for ss, row in zip(scores, rows, strict=True)
    ]
    normed = [float(np.argmax(s) == row["answer"]) for s, row in zip(by_length, rows, strict=True)]
    (task,) = found.tasks
    assert (task.name, task.n, task.num_examples, task.num_fewshot, task.version) == ("mine", 15, 15, 0, 2.5)
    assert task.metrics == {"acc,none": np.mean(right), "acc_norm,none": np.mean(normed)}
    assert 0 < np.mean(right) < 1
    assert task.stderr == pytest.approx({"acc,none": stderr(right), "acc_norm,none": stderr(normed)})
    assert (found.groups, found.was_cut, found.seed) == ((), False, 0)
    assert str(found).splitlines()[0] == f"mine acc,none: {np.mean(right):.4f} ± {stderr(right):.4f}"


def stderr(values):
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_loglikelihood_equals_our_scores(tiny, make_task, language):
    rows = choices(language)
    (task,) = evaluate_tasks(tiny, make_task("mine", LIKELIHOOD, rows)).tasks
    wanted = math.exp(-np.mean([score(tiny, row["question"], row["choices"][0]) for row in rows]))
    assert task.metrics == pytest.approx({"perplexity,none": wanted}, rel=1e-5)
    assert task.version is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rolling_loglikelihood_equals_our_scores_over_several_windows(tiny, make_task, language):
    texts = TEXTS[language]
    assert len(encode_text(tiny.tokenizer, texts[0])) > 256
    (task,) = evaluate_tasks(tiny, make_task("mine", ROLLING, [{"text": t} for t in texts])).tasks
    nll, num_bytes = -sum(roll(tiny, t, 0, 256) for t in texts), sum(len(t.encode()) for t in texts)
    wanted = {"byte_perplexity,none": math.exp(nll / num_bytes), "bits_per_byte,none": nll / num_bytes / math.log(2)}
    assert task.metrics == pytest.approx(wanted, rel=1e-5)
    assert task.stderr == {"byte_perplexity,none": None, "bits_per_byte,none": None}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_generation_equals_that_of_transformers(tiny, make_task, language):
    def go_on(question):
        ids = tiny.tokenizer(question, return_tensors="pt")
        out = tiny.model.generate(
            **ids, max_new_tokens=8, do_sample=False, temperature=None, top_p=None, pad_token_id=0
        )
        return tiny.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).split("\n")[0]

    questions = [q for q, _ in CHOICES[language]][:6]
    rows = [{"question": q, "answer": go_on(q) if i % 2 else "?"} for i, q in enumerate(questions)]
    (task,) = evaluate_tasks(tiny, make_task("mine", GENERATE, rows)).tasks
    assert task.metrics == {"exact_match,none": 0.5}


def test_half_precision_logits_are_scored_in_float32(make_task, loaded):
    tokenizer = loaded("llama").tokenizer
    lm = Loaded(tiny_model("llama", len(tokenizer)).bfloat16(), tokenizer, "half")
    rows = choices("en", 4)
    (task,) = evaluate_tasks(lm, make_task("mine", LIKELIHOOD, rows), batch_size=1).tasks
    wanted = math.exp(-np.mean([score(lm, row["question"], row["choices"][0]) for row in rows]))
    assert task.metrics == pytest.approx({"perplexity,none": wanted}, rel=1e-5)


def test_a_bert_tokenizer_lays_no_sep_between_context_and_continuation(make_task):
    tokenizer = wordpiece_tokenizer()
    lm = Loaded(tiny_model("gpt2", len(tokenizer)), tokenizer, "chinese-gpt2")
    rows = choices("zh", 6)
    (task,) = evaluate_tasks(lm, make_task("mine", LIKELIHOOD, rows)).tasks
    wanted = math.exp(-np.mean([score(lm, row["question"], row["choices"][0]) for row in rows]))
    assert task.metrics == pytest.approx({"perplexity,none": wanted}, rel=1e-5)


def test_model_tokenizer_and_random_states_are_left_as_they_were(make_task, loaded):
    model, tokenizer = tiny_model("gpt2", len(loaded().tokenizer)), loaded().tokenizer
    model.train()
    model.transformer.h[0].eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def look():
        generation, words = (
            model.generation_config.to_dict(),
            (tokenizer.pad_token, tokenizer.padding_side, len(tokenizer)),
        )
        modes = [module.training for module in model.modules()]
        return modes, model.dtype, model.device, model.config.to_dict(), generation, words

    def begin():  # from numbers that the harness does not begin from
        random.seed(97)
        np.random.seed(97)
        torch.manual_seed(97)

    def draw():
        return random.random(), np.random.rand(), float(torch.rand(1))

    before = look()
    paths = [make_task("a", MULTIPLE, choices("en", 3)), make_task("b", GENERATE, choices("en", 3))]
    begin()
    wanted = draw()
    begin()
    evaluate_tasks(Loaded(model, tokenizer, "tiny"), paths)
    assert draw() == wanted
    assert look() == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_nothing_of_the_harness_reaches_the_terminal(tiny, make_task, capfd, caplog):
    counts = []
    caplog.set_level(logging.DEBUG)
    tasks = [make_task("a", MULTIPLE, choices("en", 3)), make_task("b", LIKELIHOOD, choices("zh", 3))]
    evaluate_tasks(tiny, tasks, progress=lambda done, total: counts.append((done, total)))
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in caplog.records if record.name.startswith("lm_eval")] == []
    assert counts == [(i + 1, 15) for i in range(15)]
    harness = logging.getLogger("lm_eval")
    assert (harness.propagate, harness.level, harness.handlers) == (True, logging.NOTSET, [])


@pytest.mark.parametrize("seed", [0, 7])
def test_max_examples_are_drawn_by_the_seed(tiny, make_task, seed):
    rows = choices("en")
    suite = check_tasks(make_task("mine", LIKELIHOOD, rows))
    found = evaluate_tasks(tiny, suite, max_examples=4, seed=seed)
    drawn = [rows[shuffle_index(i, 15, seed)] for i in range(4)]
    wanted = math.exp(-np.mean([score(tiny, row["question"], row["choices"][0]) for row in drawn]))
    assert found.tasks[0].metrics == pytest.approx({"perplexity,none": wanted}, rel=1e-5)
    assert (found.tasks[0].n, found.tasks[0].num_examples, found.seed) == (4, 15, seed)
    assert evaluate_tasks(tiny, suite, max_examples=4, seed=seed).tasks == found.tasks


def test_a_prompt_that_is_cut_is_noted(tiny, make_task, notes):
    found = evaluate_tasks(tiny, make_task("mine", LIKELIHOOD, [{"question": "and then " * 300, "choices": [" the"]}]))
    assert found.was_cut
    assert notes == ["prompts of the harness that exceed the model's context of 256 tokens were cut on the left"]


def test_a_folder_means_its_tasks_and_a_group_sums_its_tasks_up(tiny, make_task):
    make_task("a", MULTIPLE, choices("en"))
    folder = make_task("b", MULTIPLE, choices("zh", 5)).parent
    body = {"group": "both", "task": ["a", "b"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    (folder / "both.yaml").write_text(json.dumps(body), encoding="utf-8")
    alone = evaluate_tasks(tiny, f"{folder}/")
    assert [task.name for task in alone.tasks] == ["a", "b"]
    found = evaluate_tasks(tiny, folder / "both.yaml")
    assert found.tasks == alone.tasks
    a, b = (task.metrics["acc,none"] for task in found.tasks)
    (group,) = found.groups
    assert (group.name, group.n, group.num_fewshot, list(group.metrics)) == ("both", 20, 0, ["acc,none"])
    assert group.metrics["acc,none"] == pytest.approx((15 * a + 5 * b) / 20)
    sentence, _ = refuse(InputError, check_tasks, [folder / "both.yaml", folder / "a.yaml"])
    assert sentence == "Duplicate task 'a': found in both 'both' and 'a'; expected each task once"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = "tasks of the harness need the package lm-eval", 'pip install "llmkit[harness]"'
    assert refuse(InputError, check_tasks, "hellaswag") == wanted


def test_an_unknown_name_suggests_the_nearest():
    sentence, hint = refuse(InputError, check_tasks, "helaswag")
    form = "a name that `lm-eval ls tasks` prints, or a path to a YAML file"
    assert sentence == f"unknown task of the harness, got 'helaswag'; expected {form}"
    assert hint == "did you mean hellaswag?"


def test_data_that_only_the_hub_has_are_named(make_task):
    path = make_task("far", MULTIPLE, dataset_path="Rowan/hellaswag")
    sentence, _ = refuse(HubError, check_tasks, path, offline=True)
    assert sentence == "data of task far are not in the local cache, and the hub cannot be asked: offline"


def test_a_missing_file_of_data_says_where_it_was_looked_for(make_task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_task("mine", MULTIPLE, dataset_kwargs={"data_files": {"test": "nothere.jsonl"}})
    sentence, hint = refuse(InputError, check_tasks, path)
    assert sentence == f"data of task mine: Unable to find '{tmp_path}/nothere.jsonl'"
    assert hint == "a file under dataset_kwargs is looked for from the working folder, not from that of the YAML"


def test_tasks_that_cannot_be_built_are_refused_before_a_model(make_task, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: [", encoding="utf-8")
    good = make_task("good", MULTIPLE, choices("en", 2))
    split = make_task("split", MULTIPLE, choices("en", 2), test_split="validation")
    unsafe = make_task("unsafe", MULTIPLE, choices("en", 2), unsafe_code=True)
    script = tmp_path / "old.py"
    script.touch()
    old = make_task("old", MULTIPLE, dataset_path=str(script))
    reasons = {
        "nothere.yaml": "no task of the harness, got 'nothere.yaml'; expected a YAML file or a folder that is there",
        f"{empty}": f"{empty} holds no task of the harness; expected .yaml files with the key task",
        f"{broken}": "task broken.yaml cannot be built: ParserError: while parsing a flow node",
        f"{split}": "task split cannot be built: KeyError: 'validation'",
        f"{unsafe}": "task unsafe runs code that the model writes; expected a task that does not",
        f"{old}": "task old cannot be built: RuntimeError: Dataset scripts are no longer supported, but found old.py",
    }
    assert {task: refuse(InputError, check_tasks, task)[0] for task in reasons} == reasons
    assert refuse(InputError, check_tasks, [])[0].startswith("no task of the harness, got an empty list")
    assert refuse(InputError, check_tasks, "good", include_path=good)[0].startswith("include_path is no folder, got ")
    assert check_tasks("good", include_path=good.parent).names == ("good",)


def test_a_model_that_is_not_causal_is_refused(make_task):
    from transformers import BertConfig, BertForSequenceClassification, BertLMHeadModel

    tokenizer = wordpiece_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), **shape)
    suite = check_tasks(make_task("mine", MULTIPLE, choices("en", 2)))
    classifier = Loaded(BertForSequenceClassification(config), tokenizer, "stars")
    sentence = "stars has a head for classification, the harness needs one for generation"
    assert refuse(InputError, evaluate_tasks, classifier, suite)[0] == sentence
    encoder = Loaded(BertLMHeadModel(config).eval(), tokenizer, "bert")
    sentence = "bert sees the tokens it should predict; expected a causal language model"
    assert refuse(InputError, evaluate_tasks, encoder, suite)[0] == sentence


def test_a_generation_as_long_as_the_context_is_refused(tiny, make_task):
    path = make_task("mine", GENERATE, choices("en", 2), generation_kwargs={"until": ["\n"]})
    sentence, hint = refuse(InputError, evaluate_tasks, tiny, path)
    assert sentence == "task mine generates up to 256 tokens, and the context of builtin/tiny is 256, with the prompt"
    assert hint == "generation_kwargs.max_gen_toks in its YAML sets it; 256 where it says nothing"


def test_a_failure_of_the_harness_is_one_sentence(tiny, make_task):
    path = make_task("mine", LIKELIHOOD, [{"question": "Once", "choices": [" and then" * 300]}])
    sentence, _ = refuse(RunError, evaluate_tasks, tiny, path)
    line = "assert len(continuation_enc) <= self.max_length"
    assert sentence == f"the harness failed on mine: AssertionError: {line}"


def test_perplexity_by_words_of_a_text_without_spaces_gets_a_hint(tiny, make_task):
    rows = [{"text": text} for text in TEXTS["zh"]]
    path = make_task("mine", ROLLING, rows, metric_list=[{"metric": "word_perplexity"}])
    sentence, hint = refuse(RunError, evaluate_tasks, tiny, path)
    assert sentence == "the harness failed on mine: math range error"
    assert hint == "word_perplexity counts words by their spaces and overflows without: byte_perplexity is for Chinese"


def test_options_out_of_range_are_refused(tiny):
    for option, value in (("max_examples", 0), ("batch_size", 0), ("seed", -1)):
        assert refuse(InputError, evaluate_tasks, tiny, "x", **{option: value})[0].startswith(f"{option} out of range")


def test_command_line_prints_what_the_harness_found(tiny, make_task, llmkit_cli):
    path = make_task("stars", MULTIPLE, choices("zh"))
    wanted = evaluate_tasks(tiny, path, max_examples=9, seed=3)
    call = ("evaluate", "builtin/tiny", "--harness", path, "--num-examples", 9, "--seed", 3)
    code, out, err = llmkit_cli(*call)
    assert (code, out, err) == (0, f"{wanted}\n", "")
    found = json.loads(llmkit_cli(*call, "--json")[1])
    assert {one["name"]: one["metrics"] for one in found["tasks"]} == {"stars": dict(wanted.tasks[0].metrics)}
    assert found["tasks"][0]["n"] == 9
