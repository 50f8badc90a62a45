"""Prompts that are continued, beside generate and the metrics put together by hand."""

import json

import pytest

import llmkit
from llmkit import metrics
from llmkit.errors import InputError
from llmkit.evaluation import planning
from llmkit.evaluation.planning import make_plan

PROMPTS = ["Once upon a time", "It was a cold morning", "The sea was", "人工智能的未来", "def f(x):"]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def lm(loaded):
    return loaded("gpt2", n_positions=128)


def test_texts_are_scored_against_generate(lm, tmp_path, monkeypatch):
    monkeypatch.setitem(planning.CHUNKS, "generation", 2)
    found = llmkit.generate_batch(PROMPTS, model=lm, temperature=0, max_new_tokens=6)
    texts = [one.text.strip() for one in found]
    right = [texts[0], f" {texts[1]}\n", "something else", texts[3][1:], "x"]
    data = write(tmp_path / "a.jsonl", [{"prompt": p, "completion": c} for p, c in zip(PROMPTS, right, strict=True)])
    result = llmkit.evaluate(lm, on="generation", data=data, max_new_tokens=6)
    right = [text.strip() for text in right]
    exact = [metrics.exact_match(a, [b]) for a, b in zip(texts, right, strict=True)]
    near = [metrics.f1(a, [b]) for a, b in zip(texts, right, strict=True)]
    assert result.metrics == pytest.approx(
        {
            "exact_match": 20 * sum(exact),
            "f1": 20 * sum(near),
            "bleu": metrics.bleu(texts, right).value,
            "chrf": metrics.chrf(texts, right).value,
        },
        rel=1e-12,
    )
    assert list(result.intervals) == ["exact_match", "f1", "bleu", "chrf"]
    assert (result.definition, sorted(result.signatures)) == ("squad-v1.1", ["bleu", "chrf"])
    assert [row.got for row in result.rows] == texts
    assert [row.expected for row in result.rows] == right
    assert [row.given for row in result.rows] == [{"prompt": prompt} for prompt in PROMPTS]
    assert [row.scores["f1"] for row in result.rows] == pytest.approx([100 * one for one in near])
    assert [row.scores["chrf"] for row in result.rows] == metrics.chrf_of_each(texts, right)


def test_white_space_around_both_texts_does_not_count(lm, tmp_path, monkeypatch):
    from llmkit.tasks import generation
    from llmkit.tasks.results import Generation

    text = Generation(" a  b\n", (), "eos", 1, None, 0.0)
    monkeypatch.setattr(generation.Job, "run", lambda job, starts: [text for _ in starts])
    data = write(
        tmp_path / "a.jsonl", [{"prompt": "a", "completion": "\ta  b "}, {"prompt": "a", "completion": "a  c"}]
    )
    result = llmkit.evaluate(lm, on="generation", data=data)
    assert [(row.got, row.expected) for row in result.rows] == [("a  b", "a  b"), ("a  b", "a  c")]


def test_sixty_four_tokens_are_the_most_unless_said(lm, tmp_path, monkeypatch):
    from llmkit.tasks import generation

    asked = []
    monkeypatch.setattr(generation.Job, "run", lambda job, starts: asked.append(job.config) or _echo(starts))
    data = write(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}] * 2)
    llmkit.evaluate(lm, on="generation", data=data)
    llmkit.evaluate(lm, on="generation", data=data, max_new_tokens=3)
    assert [(config.max_new_tokens, config.do_sample) for config in asked] == [(64, False), (3, False)]


def _echo(starts):
    return [llmkit.generate("a", model="builtin/tiny", max_new_tokens=1, temperature=0) for _ in starts]


def test_conversations_go_through_the_chat_template(lm, tmp_path):
    talk = [{"role": "user", "content": "hello"}]
    data = write(tmp_path / "a.jsonl", [{"prompt": talk, "completion": "world"}] * 2)
    result = llmkit.evaluate(lm, on="generation", data=data, max_new_tokens=3)
    wanted = llmkit.generate(talk, model=lm, temperature=0, max_new_tokens=3).text.strip()
    assert [row.got for row in result.rows] == [wanted] * 2
    assert result.rows[0].given == {"prompt": talk}


@pytest.mark.parametrize(
    ("completions", "definition"), [(["你好", "世界", "a"], "cmrc-2018"), (["你好", "b", "a"], "squad-v1.1")]
)
def test_definition_follows_the_language_of_most_completions(tmp_path, completions, definition):
    data = write(tmp_path / "a.jsonl", [{"prompt": "a", "completion": text} for text in completions])
    assert make_plan("generation", data).survey.definition == definition


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        ({"completion": "a"}, {}, r"a\.jsonl row 1: column 'prompt' not in \[completion\]"),
        ({"prompt": "a"}, {}, r"a\.jsonl row 1: column 'completion' not in \[prompt\]"),
        ({"prompt": 1, "completion": "a"}, {}, r"a\.jsonl row 1: expected text as prompt, got a number"),
        (
            {"prompt": "a", "completion": "b"},
            {"max_new_tokens": 0},
            "max_new_tokens out of range, got 0; expected a whole number from 1 to 1,000,000",
        ),
    ],
)
def test_what_is_no_example_is_refused(tmp_path, row, options, sentence):
    data = write(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError, match=sentence):
        llmkit.evaluate("no/such/checkpoint", on="generation", data=data, **options)


def test_columns_are_named_by_keys(tmp_path):
    data = write(tmp_path / "a.jsonl", [{"q": "a", "a": "b"}])
    plan = make_plan("generation", {"path": data, "prompt_column": "q", "completion_column": "a"})
    (chunk,) = plan.chunks(planning.Completion, print)
    assert [(row.prompt, row.completion) for row in chunk] == [("a", "b")]


def test_new_tokens_cannot_act_with_other_tasks(tmp_path):
    data = write(tmp_path / "a.jsonl", [{"text": "a", "label": 0}])
    with pytest.raises(InputError) as caught:
        llmkit.evaluate("no/such/checkpoint", on="sentiment", data=data, max_new_tokens=3)
    assert str(caught.value) == "--max-new-tokens (in Python: max_new_tokens=) cannot act with classification"


def test_prompt_that_does_not_fit_is_named_before_any_is_answered(lm, tmp_path, monkeypatch):
    monkeypatch.setitem(planning.CHUNKS, "generation", 1)
    data = write(tmp_path / "a.jsonl", [{"prompt": p, "completion": "b"} for p in ("a", "hello " * 200)])
    done = []
    with pytest.raises(InputError, match=r"a\.jsonl row 2: the prompt has [\d,]+ tokens, the context of ") as caught:
        llmkit.evaluate(lm, on="generation", data=data, progress=done.append)
    assert (done, caught.value.hint) == ([], None)


def test_setting_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(TypeError, match="no such setting: temperature; expected labels, max_examples, "):
        llmkit.evaluate("no/such/checkpoint", on="generation", data="x", temperature=1)


@pytest.mark.parametrize("with_turns", [False, True])
def test_a_template_asks_as_training_did(lm, tmp_path, with_turns):
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    lm.tokenizer.chat_template = turns if with_turns else None
    rows = [{"q": "who?", "d": "now", "completion": "a"}, {"q": "何?", "d": "今", "completion": "b"}]
    data = {"path": str(write(tmp_path / "a.jsonl", rows)), "template": "{d}: {q}"}
    found = llmkit.evaluate(lm, on="generation", data=data, max_new_tokens=3)
    asked = ["now: who?", "今: 何?"]
    given = [[{"role": "user", "content": text}] for text in asked] if with_turns else asked
    wanted = llmkit.generate_batch(given, model=lm, temperature=0, max_new_tokens=3)
    assert [row.got for row in found.rows] == [one.text.strip() for one in wanted]


def test_a_template_goes_beside_no_column_of_prompts(tmp_path):
    data = {"path": str(write(tmp_path / "a.jsonl", [{"q": "a", "completion": "b"}])), "template": "{q}"}
    with pytest.raises(InputError) as caught:
        make_plan("generation", {**data, "prompt_column": "q"})
    assert str(caught.value) == "got data.prompt_column beside data.template; expected one of the two"


def test_a_template_of_training_that_is_not_asked_with_is_noted(lm, tmp_path, caplog):
    trained = llmkit.Loaded(lm.model, lm.tokenizer, "it", {"template": "Q: {q}"})
    data = {"path": str(write(tmp_path / "a.jsonl", [{"q": "a", "prompt": "a", "completion": "b"}] * 2))}
    note = "it was trained with data.template='Q: {q}', and is asked without it"
    caplog.set_level("INFO", "llmkit")
    llmkit.evaluate(trained, on="generation", data={**data, "template": "{q}"}, max_new_tokens=1)
    assert note not in caplog.messages
    llmkit.evaluate(trained, on="generation", data=data, max_new_tokens=1)
    assert note in caplog.messages
