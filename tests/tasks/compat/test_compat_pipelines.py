"""The ways to call `llmkit.pipeline`: models, devices, forms of input, batches, errors, other tasks."""

import copy
import math
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
import torch
import transformers
from compat_cases import MBART, MIXED, context, plain
from compat_checkpoints import CHINESE, ENGLISH, MAKERS, SOURCES
from transformers import GenerationConfig

import llmkit
from llmkit import InputError, Loaded
from llmkit.locating import BUILTIN
from llmkit.tasks.compat import pipelines
from llmkit.tasks.compat.spans import Choice, Tally, Window

DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs" / "how-to"
PAGES = [DOCS / "migrate-from-transformers-4.md", DOCS / "migrate-from-transformers-4.zh-CN.md"]
QUESTION, CONTEXT = "Who built the lighthouse?", ENGLISH
PAIR = {"question": QUESTION, "context": CONTEXT}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function that loads one of the tiny checkpoints, once."""
    made = {}

    def make(name):
        if name not in made:
            task = "question-answering" if name in ("bert", "gpt2", "roberta") else "translation"
            made[name] = llmkit.load(MAKERS[name](str(tmp_path_factory.mktemp(name))), task=task, device="cpu")
        return made[name]

    return make


@pytest.fixture
def answerer(tiny):
    return llmkit.pipeline("question-answering", model=tiny("bert"))


@pytest.fixture
def translator(tiny):
    return llmkit.pipeline("translation", model=tiny("marian"))


def refuse(call, error=InputError):
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


class Items(torch.utils.data.Dataset):
    """A Dataset that knows its length and its items only."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


# --- question answering: forms of input


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([PAIR], {}),
        ([[PAIR]], {}),
        ([(PAIR,)], {}),
        ([QUESTION, CONTEXT], {}),
        ([types.SimpleNamespace(question_text=QUESTION, context_text=CONTEXT)], {}),
        ([[types.SimpleNamespace(question_text=QUESTION, context_text=CONTEXT)]], {}),
        ([], PAIR),
        ([], {"question": [QUESTION], "context": CONTEXT}),
        ([], {"question": [QUESTION], "context": [CONTEXT]}),
        ([], {"data": PAIR}),
        ([], {"X": [PAIR]}),
    ],
)
def test_answerer_gives_one_answer_for_one_question_in_any_form(args, named, answerer):
    assert answerer(*args, **named) == answerer(question=QUESTION, context=CONTEXT)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([[PAIR, MIXED[0]]], {}),
        ([PAIR, MIXED[0]], {}),
        ([{key: [PAIR[key], MIXED[0][key]] for key in PAIR}], {}),
        ([], {key: [PAIR[key], MIXED[0][key]] for key in PAIR}),
    ],
)
def test_answerer_gives_a_list_for_several_questions(args, named, answerer):
    assert answerer(*args, **named) == [answerer(PAIR), answerer(MIXED[0])]


def test_answerer_asks_several_questions_of_one_context(answerer):
    questions = [QUESTION, "When?"]
    assert answerer(question=questions, context=CONTEXT) == [answerer(q, CONTEXT) for q in questions]


def test_answerer_gives_nothing_for_no_questions(answerer):
    assert answerer([]) == []


@pytest.mark.parametrize("kind", [lambda items: (item for item in items), Items])
def test_answerer_gives_an_iterator_for_what_is_read_lazily(kind, answerer):
    found = answerer(kind([PAIR, MIXED[0]]), top_k=2)
    assert not isinstance(found, list)
    assert list(found) == answerer([PAIR, MIXED[0]], top_k=2)


@pytest.mark.parametrize("task", ["question-answering", "translation"])
def test_pipeline_reads_a_generator_no_further_than_needed(task, answerer, translator):
    pipe, item = (answerer, PAIR) if task == "question-answering" else (translator, SOURCES[0])
    read = []
    found = pipe(read.append(i) or item for i in range(9))
    next(found)
    next(found)
    assert len(read) == 2


def test_answerer_takes_settings_beforehand_and_those_of_a_call_first(tiny):
    pipe = llmkit.pipeline("question-answering", model=tiny("bert"), top_k=3, max_answer_len=4)
    assert [len(pipe(PAIR)), len(pipe(PAIR, top_k=2)), len(pipe(PAIR, topk=2))] == [3, 2, 2]


def test_answerer_takes_none_for_the_default(answerer):
    assert answerer(PAIR, top_k=None, doc_stride=None, max_seq_len=None) == answerer(PAIR)


def test_answerer_says_what_has_no_effect(answerer, notes):
    answerer(PAIR, max_length=20)
    assert notes == ["max_length has no effect on question-answering"]


# --- question answering: batches, long contexts, odd characters


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_answers_of_a_batch_are_those_of_single_windows(name, tiny):
    pipe = llmkit.pipeline("question-answering", model=tiny(name))
    alone, together = (pipe(MIXED, top_k=3, max_seq_len=200, batch_size=size) for size in (1, 7))
    for one, other in zip(alone, together, strict=True):
        assert [a["answer"] for a in one] == [a["answer"] for a in other]
        assert [a["score"] for a in one] == pytest.approx([a["score"] for a in other], abs=1e-6)


def test_answers_point_into_their_context_when_it_holds_half_characters(answerer):
    broken = f"\ud83d {CONTEXT} \udc00"
    found = answerer("Who\udc00?", broken, top_k=3)
    assert [broken[a["start"] : a["end"]] for a in found] == [a["answer"] for a in found]
    whole = answerer("Who\ufffd?", broken.replace("\ud83d", "\ufffd").replace("\udc00", "\ufffd"), top_k=3)
    assert [(a["start"], a["end"]) for a in found] == [(a["start"], a["end"]) for a in whole]


def test_window_is_no_longer_than_the_model_takes(tiny):
    lm = tiny("bert")
    config = copy.deepcopy(lm.model.config)
    config.max_position_embeddings = 64
    short = type(lm.model)(config).eval()
    pipe = llmkit.pipeline("question-answering", model=short, tokenizer=lm.tokenizer, device="cpu")
    assert pipe(question="Who?", context=context("en", 9))["end"] > 0
    sentence = "max_seq_len is too large, got windows of 65 tokens; the model takes 64"
    assert refuse(lambda: pipe(question="Who?", context=context("en", 9), max_seq_len=65)) == sentence


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            {"question": "a " * 40, "max_seq_len": 30},
            "the question fills the window of 30 tokens, got 43 with the marks",
        ),
        (
            {"question": "a " * 27, "max_seq_len": 30},
            "the question fills the window of 30 tokens, got 30 with the marks",
        ),
        (
            {"question": "a", "max_seq_len": 30, "doc_stride": 26},
            "doc_stride is too large, got 26; expected fewer than the 26 tokens that the question leaves",
        ),
        (
            {"question": "a", "context": "b", "max_seq_len": 30, "doc_stride": 28},
            "doc_stride is too large, got 28; expected fewer than 28",
        ),
        ({"max_seq_len": 30, "doc_stride": 31}, "doc_stride out of range, got 31; expected 0 to max_seq_len (30)"),
        ({"doc_stride": -1}, "doc_stride out of range, got -1; expected 0 to max_seq_len (384)"),
        ({"top_k": 0}, "top_k out of range, got 0; expected a whole number from 1"),
        ({"max_answer_len": 0}, "max_answer_len out of range, got 0; expected a whole number from 1"),
        ({"batch_size": 0}, "batch_size out of range, got 0; expected a whole number from 1"),
        ({"context": ""}, "a question needs a text as context, got an empty one"),
        ({"question": ""}, "a question needs a text as question, got an empty one"),
        ({"question": None}, "a question needs a text as question, got NoneType"),
        ({"question": ["a", "b"], "context": ["c"]}, "each question needs a context, got 2 questions and 1 contexts"),
        ({"question": "a", "context": ["c"]}, "one question goes with one context, got a list of contexts"),
    ],
)
def test_answerer_says_in_a_sentence_what_cannot_work(call, sentence, answerer):
    assert refuse(lambda: answerer(**{**PAIR, **call})).startswith(sentence)


@pytest.mark.parametrize(
    ("args", "named", "sentence"),
    [
        ([], {}, "a question and a context are needed, got neither; expected {"),
        ([], {"question": "a"}, "a question and a context are needed, got question; expected {"),
        (["a"], {}, "questions cannot be read, got str; expected {"),
        ([7], {}, "questions cannot be read, got int; expected {"),
        ([["a"]], {}, "a question cannot be read, got str; expected {"),
        ([{"question": "a"}], {}, "a question needs a text as context, got none"),
    ],
)
def test_answerer_says_what_it_cannot_read(args, named, sentence, answerer):
    assert refuse(lambda: answerer(*args, **named)).startswith(sentence)


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (7, "a question cannot be read, got int; expected {"),
        ({key: [PAIR[key]] * 2 for key in PAIR}, "an item must hold one question, got 2"),
    ],
)
def test_answerer_says_what_it_cannot_read_of_a_generator(item, sentence, answerer):
    assert refuse(lambda: list(answerer(x for x in [item]))).startswith(sentence)


def test_answerer_needs_a_tokenizer_that_knows_characters(tiny):
    slow = types.SimpleNamespace()
    sentence = refuse(lambda: llmkit.pipeline("question-answering", model=Loaded(tiny("bert").model, slow)))
    assert sentence == (
        "question-answering needs a tokenizer that knows characters, got SimpleNamespace; expected a fast one "
        "(tokenizer.json)"
    )


def test_trained_checkpoint_is_fed_as_in_its_training(tiny):
    lm = tiny("bert")
    words = copy.deepcopy(lm.tokenizer)
    words.model_input_names = ["input_ids", "attention_mask"]
    words.init_kwargs.pop("model_input_names", None)
    pathlib.Path(words.name_or_path, "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8"
    )
    fed = []
    hook = lm.model.register_forward_pre_hook(lambda _, args, kwargs: fed.append(set(kwargs)), with_kwargs=True)
    try:
        for facts in (None, {"task": "question-answering"}):
            llmkit.pipeline("question-answering", model=Loaded(lm.model, words, "", facts))(PAIR)
    finally:
        hook.remove()
    assert ["token_type_ids" in names for names in fed] == [True, False]


def test_answers_that_differ_in_case_alone_are_one_over_all_windows(answerer):
    text = " ".join(f"{word} " + "rain " * 40 for word in ("Lamp", "LAMP", "lamp", "lAMP"))
    found = answerer("Which lamp?", text, max_seq_len=60, doc_stride=8, max_answer_len=1, top_k=20)
    assert [a["answer"].lower() for a in found].count("lamp") == 1
    whole = next(a for a in found if a["answer"].lower() == "lamp")
    assert (whole["start"], whole["answer"]) == (0, "Lamp")


def test_null_score_is_the_least_of_all_windows():
    encoding = types.SimpleNamespace(token_to_word=lambda _: None, offsets=[(0, 0), (0, 1)])
    window = Window([2, 5], [0, 0], np.array([True, True]), encoding, 1)
    tally = Tally("x", Choice(top_k=2, handle_impossible_answer=True))
    for logit in (0.0, -2.0, -1.0):
        tally.add(window, np.array([logit, 0.0], np.float32), np.array([logit, 0.0], np.float32))
    best = {"score": pytest.approx(sum(1 / (1 + math.exp(x)) ** 2 for x in (0, -2, -1))), "start": 0, "end": 1}
    null = {"score": pytest.approx(1 / (1 + math.exp(2)) ** 2), "start": 0, "end": 0}
    assert tally.best() == [{**best, "answer": "x"}, {**null, "answer": ""}]


# --- seq2seq: what a config starts from


def start(lm, task, **settings):
    config = llmkit.pipeline(task, model=lm, **settings).generation_config
    return config.max_new_tokens, config.max_length, config.num_beams


@pytest.mark.parametrize(
    ("name", "task", "settings", "expected"),
    [
        ("marian", "translation", {}, (None, 24, 4)),
        ("marian", "translation", {"max_new_tokens": 9, "num_beams": 1}, (9, None, 1)),
        ("marian", "translation", {"max_length": 8}, (None, 8, 4)),
        ("bart", "text2text-generation", {}, (256, None, 4)),
        ("t5", "summarization", {}, (256, None, 3)),
        ("t5", "translation_en_to_de", {}, (256, 50, 2)),
        ("t5", "translation", {}, (256, 50, 2)),
        ("t5", "translation_en_to_fr", {}, (256, None, 4)),
    ],
)
def test_generation_starts_from_256_tokens_and_four_beams_unless_the_checkpoint_has_a_length(
    name, task, settings, expected, tiny
):
    assert start(tiny(name), task, **settings) == expected


def test_pipeline_leaves_model_and_tokenizer_as_they_were(tiny):
    lm = tiny("t5")
    before = lm.model.config.to_dict(), lm.model.generation_config.to_dict()
    llmkit.pipeline("summarization", model=lm)(SOURCES[0], max_new_tokens=2)
    assert (lm.model.config.to_dict(), lm.model.generation_config.to_dict()) == before
    assert lm.model.config.task_specific_params["summarization"]["prefix"] == "lamp: "
    many = tiny("mbart")
    llmkit.pipeline("translation", model=many, **MBART)(SOURCES[2], src_lang="zh_CN", max_new_tokens=2)
    assert many.tokenizer.src_lang == "en_XX"
    assert many.tokenizer("a")["input_ids"][-1] == many.tokenizer.convert_tokens_to_ids("en_XX")


def test_call_takes_a_generation_config(translator):
    config = GenerationConfig(max_new_tokens=5, num_beams=1)
    before = config.to_dict()
    assert translator(SOURCES[1], generation_config=config) == translator(SOURCES[1], max_new_tokens=5, num_beams=1)
    assert config.to_dict() == before


def test_stop_sequence_ends_a_text_at_its_first_token(translator):
    settings = {"return_tensors": True, "num_beams": 1}
    whole, cut = (plain(translator(SOURCES[1], **settings, **stop)) for stop in ({}, {"stop_sequence": "built in"}))
    end = translator.tokenizer.convert_tokens_to_ids("▁built")
    ids = whole[0]["translation_token_ids"]
    assert cut[0]["translation_token_ids"] == ids[: ids.index(end) + 1]


def test_stop_sequence_needs_a_token(translator):
    assert refuse(lambda: translator(SOURCES[0], stop_sequence="")) == "stop_sequence has no tokens, got ''"


# --- seq2seq: forms of input, batches


@pytest.mark.parametrize("kind", [lambda items: (item for item in items), Items])
def test_translator_gives_an_iterator_of_lists_for_what_is_read_lazily(kind, translator):
    found = translator(kind(SOURCES[:2]))
    assert not isinstance(found, list)
    assert list(found) == [translator(text) for text in SOURCES[:2]]


def test_translator_gives_nothing_for_no_texts(translator):
    assert translator([]) == []


@pytest.mark.parametrize("name", ["marian", "mbart"])
def test_ids_of_a_batch_are_those_of_single_texts(name, tiny):
    pipe = llmkit.pipeline("translation", model=tiny(name), **(MBART if name == "mbart" else {}))
    settings = {"return_tensors": True, "max_new_tokens": 12, "num_return_sequences": 2}
    assert plain(pipe(SOURCES, batch_size=4, **settings)) == plain([pipe(text, **settings) for text in SOURCES])


def test_cut_padding_keeps_the_end_that_is_also_the_padding():
    from llmkit.tasks.compat.text2text import cut_padding

    group = torch.tensor([[7, 5, 1, 1, 1], [7, 5, 5, 1, 1]])
    ends, pads = (GenerationConfig(pad_token_id=1, eos_token_id=end) for end in (1, 2))
    assert cut_padding(group, ends).tolist() == [[7, 5, 1, 1], [7, 5, 5, 1]]
    assert cut_padding(group, pads).tolist() == [[7, 5, 1], [7, 5, 5]]
    assert cut_padding(group[:, :3], ends).tolist() == [[7, 5, 1], [7, 5, 5]]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (7, "a text or a list of texts is needed, got int"),
        (("a", "b"), "a text or a list of texts is needed, got tuple"),
        (["a", 7], "input 1 must be a text, got int"),
        ([["a"]], "input 0 must be a text, got list"),
    ],
)
def test_translator_names_an_input_that_is_no_text(inputs, sentence, translator):
    assert refuse(lambda: translator(inputs), TypeError) == sentence


def test_translator_names_an_item_of_a_generator_that_is_no_text(translator):
    assert refuse(lambda: list(translator(x for x in [7])), TypeError) == "an input must be a text, got int"


def test_translator_takes_half_characters(translator):
    assert translator("\ud83d a") == translator("\ufffd a")


def test_text_that_the_model_cannot_take_is_one_sentence_and_truncation_cuts_it(tiny):
    pipe = llmkit.pipeline("summarization", model=tiny("bart"))
    text = CHINESE * 9
    count = len(tiny("bart").tokenizer(text)["input_ids"])
    assert refuse(lambda: pipe(text)) == f"the text has {count} tokens, the model takes 300"
    assert pipe(text, truncation=True, max_new_tokens=3)[0]["summary_text"]


def test_model_with_relative_positions_takes_a_text_of_any_length(tiny):
    pipe = llmkit.pipeline("text2text-generation", model=tiny("t5"))
    assert len(pipe(CHINESE * 20, max_new_tokens=2)) == 1


# --- seq2seq: languages


@pytest.mark.parametrize(
    ("settings", "sentence", "hint"),
    [
        ({}, "this model translates between many languages, got none; expected src_lang= and tgt_lang=", None),
        ({"src_lang": "en_XX"}, "this model translates between many languages, got none; expected", None),
        ({**MBART, "tgt_lang": "de"}, "tgt_lang is not a language of this model, got 'de'", "did you mean 'de_DE'?"),
        ({**MBART, "src_lang": "qq"}, "src_lang is not a language of this model, got 'qq'", None),
    ],
)
def test_translation_between_many_languages_names_what_is_wrong_with_a_language(settings, sentence, hint, tiny):
    with pytest.raises(InputError) as caught:
        llmkit.pipeline("translation", model=tiny("mbart"))("a", **settings)
    assert str(caught.value).startswith(sentence)
    assert hint is None or caught.value.hint == hint


@pytest.mark.parametrize("task", ["translation_en", "translation_en_to", "translation_en_XX_to_de_DE", "translation_"])
def test_task_that_names_no_pair_is_refused(task):
    sentence = f"unknown task, got {task!r}; expected translation or translation_xx_to_yy"
    assert refuse(lambda: llmkit.pipeline(task, model="none")) == sentence


# --- models, tokenizers, devices


def test_pipeline_takes_a_name_a_loaded_or_a_model_with_its_tokenizer(tiny):
    lm = tiny("gpt2")
    expected = llmkit.pipeline("question-answering", model=lm)(PAIR)
    for model, tokenizer in [
        (lm.name, None),
        (pathlib.Path(lm.name), None),
        (lm.name, lm.name),
        (lm.name, lm.tokenizer),
        (lm.name, (lm.name, {"use_fast": True})),
        (lm, lm.tokenizer),
        (lm.model, lm.tokenizer),
        (lm.model, lm.name),
    ]:
        pipe = llmkit.pipeline("question-answering", model, tokenizer=tokenizer, device=-1, framework="pt")
        assert pipe(PAIR) == expected


def test_pipeline_passes_on_how_a_model_is_loaded(tiny):
    options = {"dtype": torch.bfloat16, "model_kwargs": {"attn_implementation": "eager", "local_files_only": True}}
    pipe = llmkit.pipeline("question-answering", model=tiny("gpt2").name, device="cpu", **options)
    assert (pipe.model.dtype, pipe.model.config._attn_implementation) == (torch.bfloat16, "eager")
    old = llmkit.pipeline("question-answering", model=tiny("gpt2").name, device_map="cpu", torch_dtype="float16")
    assert (old.model.dtype, old.device) == (torch.float16, torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "device_map", "gpu", "expected"),
    [
        (None, None, True, None),
        (-1, None, True, "cpu"),
        (0, None, True, "cuda:0"),
        (1, None, False, "auto"),
        ("cuda:1", None, True, "cuda:1"),
        (torch.device("cuda", 1), None, True, "cuda:1"),
        (None, "auto", True, "auto"),
        (None, {"": 0}, True, "cuda:0"),
        (None, {"": "cpu"}, True, "cpu"),
    ],
)
def test_device_is_named_as_in_transformers_4(device, device_map, gpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert pipelines._name_device(device, device_map) == expected


@pytest.mark.parametrize(
    ("task", "options", "sentence"),
    [
        ("translation_en_to_xx", {}, "translation needs a checkpoint, got none"),
        (
            "summarization",
            {"model": 7},
            "translation needs a checkpoint, got int; expected a name, a Loaded, or model=",
        ),
        (
            "summarization",
            {"framework": "tf", "model": "x"},
            "summarization runs in PyTorch by llmkit's own class, got",
        ),
        (
            "translation",
            {"pipeline_class": 1, "model": "x"},
            "translation runs in PyTorch by llmkit's own class, got p",
        ),
    ],
)
def test_pipeline_says_in_a_sentence_what_it_cannot_build(task, options, sentence):
    assert refuse(lambda: llmkit.pipeline(task, **options)).startswith(sentence)


def test_pipeline_needs_a_tokenizer_beside_a_model(tiny):
    sentence = refuse(lambda: llmkit.pipeline("question-answering", model=tiny("bert").model))
    assert "got a model without its tokenizer; expected" in sentence


def test_pipeline_refuses_a_head_for_another_task(tiny):
    sentence = refuse(lambda: llmkit.pipeline("summarization", model=tiny("bert")))
    assert sentence.endswith("has a head for question-answering, this call needs one for translation")


# --- other tasks


@pytest.mark.parametrize("task", ["fill-mask", "sentiment-analysis", "text-generation", None])
def test_other_tasks_go_to_transformers_as_they_are(task, monkeypatch, tiny):
    called = []
    monkeypatch.setattr("transformers.pipeline", lambda *args, **kwargs: called.append((args, kwargs)))
    llmkit.pipeline(task, model="name", top_k=2, framework="pt", dtype=torch.float16, device=0, use_fast=False)
    llmkit.pipeline(task, tiny("bert"))
    lm = tiny("bert")
    given = {"model": "name", "top_k": 2, "dtype": torch.float16, "device": 0, "use_fast": False}
    assert called == [((task,), given), ((task,), {"model": lm.model, "tokenizer": lm.tokenizer})]


# --- the page


def blocks(page):
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    for folder, name in [("my-answerer", "bert"), ("my-translator", "marian"), ("my-summarizer", "bart")]:
        MAKERS[name](str(tmp_path / folder))
    monkeypatch.chdir(tmp_path)
    names = {}
    for kind, block in blocks(PAGES[0]):
        if kind == "python":
            exec(compile(block, PAGES[0].name, "exec"), names)
    assert capsys.readouterr().out.count("\n") == 4
    assert set(names["answer"]) == {"score", "start", "end", "answer"}


def test_page_has_the_same_headings_and_blocks_in_both_languages():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    levels = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in texts]
    assert levels[0] == levels[1]
    assert blocks(PAGES[0]) == blocks(PAGES[1])


def test_tasks_of_transformers_take_the_names_of_llmkit(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(transformers, "pipeline", lambda task, **given: found.append((task, given)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    shutil.copytree(BUILTIN / "tiny", tmp_path / "run" / "final")
    for name in ("builtin/tiny", str(tmp_path / "run")):
        llmkit.pipeline("text-generation", model=name)
        task, given = found.pop()
        assert (task, given["model"].config.model_type) == ("text-generation", "gpt2")
        assert given["tokenizer"]("the sea")["input_ids"]
    llmkit.pipeline("text-generation", model="someone/model")
    assert found == [("text-generation", {"model": "someone/model"})]
