import itertools
import math
import random

import numpy as np
import pytest
import torch
from qa_models import chinese_tokenizer, qa_model, read_questions, search_all, with_tokenizer

import llmkit
from llmkit import Answer, InputError, Loaded, RunError, answer, answer_batch
from llmkit.encoding import pairs, prompts
from llmkit.tasks import generated_answers
from llmkit.tasks import spans as spans_module
from llmkit.tasks.answering import prepare
from llmkit.tasks.asking import Settings
from llmkit.tasks.results import Generation
from llmkit.tasks.spans import Edges, Part, Pool, find_best, find_edges, measure_reach

MISSING = "no/such/checkpoint"  # a call that fails on it has begun to load
FAMILIES = ("bert", "roberta", "gpt2", "t5")
QUESTION = "Who wrote it? 谁"
TEXT = "Once upon a time, 小明 😀 wrote  it.\n\n The end of 人工智能的未来 👩‍👩‍👧 is a cold morning. " * 9
CUT = {"max_length": 64, "stride": 20}


def listed(found):
    """The answers as (text's number or name, start, end, score)."""
    return [(a.file, a.start, a.end, a.score) for a in (found, *found.alternatives)]


def close(found, wanted):
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in wanted], rel=1e-9)


# --- the search over spans


def collect(spans, text, begin, end, score):
    """Keep the higher score of a span, without the space around it."""
    words = text[begin:end]
    begin += len(words) - len(words.lstrip())
    end = begin + len(words.strip())
    if begin < end:
        spans[begin, end] = max(score, spans.get((begin, end), -1e300))


def random_case(rng):
    """Tokens of a text, windows over them with scores of their own, and a limit on the tokens of an answer."""
    text, offsets = "", []
    while len(offsets) < rng.randint(1, 40):
        piece = rng.choice(["ab ", " c", "  ", "\n", "的", "😀", "x", ""])
        begin = len(text)
        text += piece
        if piece == "😀":
            offsets += [(begin, begin + 1)] * rng.randint(1, 4)
        elif piece == "ab ":
            offsets += [(begin, begin + 1), (begin + 1, begin + 3)]
        else:
            offsets.append((begin, begin + len(piece)))
    room = rng.randint(1, 12)
    stride = rng.randint(0, room - 1)
    spread = rng.choice([1.0, 8.0])
    cut = list(llmkit.windows.spans(len(offsets), room, stride))
    scores = [[[rng.gauss(0, spread) for _ in range(last - first)] for _ in "se"] for first, last in cut]
    if rng.random() < 0.3:  # equal scores
        scores = [[[float(round(x)) for x in side] for side in window] for window in scores]
    return text, offsets, room, stride, cut, scores, rng.randint(1, 9)


@pytest.mark.parametrize("block", [1 << 16, 2])
def test_search_equals_one_over_all_spans_of_all_windows(block, monkeypatch):
    monkeypatch.setattr(spans_module, "BLOCK", block)
    rng = random.Random(5)
    for _ in range(200):
        text, offsets, room, stride, cut, scores, most = random_case(rng)
        spans: dict[tuple[int, int], float] = {}
        top = rng.randint(1, 6)
        pool = Pool(top, measure_reach(room, stride, most), most)
        begins, ends = (np.array(side, dtype=np.int32) for side in zip(*offsets, strict=True))
        edges = find_edges(text, begins, ends)
        for (first, last), (s, e) in rng.sample(list(zip(cut, scores, strict=True)), len(cut)):
            pool.add(Part(0, Edges(edges.starts[first:last], edges.ends[first:last]), np.array(s), np.array(e)))
            for i, j in itertools.product(range(last - first), repeat=2):
                if i <= j < i + most:
                    collect(spans, text, offsets[first + i][0], offsets[first + j][1], s[i] + e[j])
        wanted = []
        for (begin, end), score in sorted(spans.items(), key=lambda item: (-item[1], item[0])):
            if len(wanted) < top and all(end <= c[2] or begin >= c[3] for c in wanted):
                wanted.append((-score, 0, begin, end))
        assert [tuple(hit) for hit in pool.choose()] == wanted
        assert len(pool._best) <= (top - 1) * pool.reach + 1


def make_part(starts, ends, text=0):
    places = np.arange(len(starts), dtype=np.int32)
    return Part(text, Edges(places, places + 1), np.array(starts, float), np.array(ends, float))


def test_search_keeps_few_windows_of_many():
    rng, pool = np.random.default_rng(0), Pool(3, measure_reach(250, 128, 30), 30)
    for _ in range(500):
        pool.add(make_part(rng.normal(size=8), rng.normal(size=8)))
    assert len(pool._best) == 2 * measure_reach(250, 128, 30) + 1 == 7


def test_search_gives_the_same_span_of_two_texts_twice():
    pool = Pool(2, 3, 5)
    for text in (1, 0):
        pool.add(make_part([0.0, 2.0], [0.0, 3.0], text))
    assert [tuple(hit) for hit in pool.choose()] == [(-5.0, 0, 1, 2), (-5.0, 1, 1, 2)]


def test_search_finds_nothing_in_a_window_of_space():
    nothing = Edges(np.array([9, 9], dtype=np.int32), np.array([0, 0], dtype=np.int32))
    part = Part(0, nothing, np.zeros(2), np.zeros(2))
    assert find_best(part, 30) is None
    pool = Pool(1, 1, 30)
    pool.add(part)
    assert pool.choose() == []


# --- against brute force, through models


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text", ["人工智能的未来是什么？没有人知道。", TEXT, "\n 😀👩‍👩‍👧  "], ids=("zh", "mixed", "emoji")
)
def test_answer_equals_a_search_over_all_spans_of_all_windows(family, text):
    lm = qa_model(family)
    for max_answer_tokens, top in ((30, 1), (4, 5)):
        found = answer(QUESTION, context=text, model=lm, top=top, max_answer_tokens=max_answer_tokens, **CUT)
        wanted, _ = search_all(lm, QUESTION, [text], top=top, max_tokens=max_answer_tokens, **CUT)
        close(listed(found), [(None, *row[1:]) for row in wanted])
        assert all(text[a.start : a.end] == a.text == a.text.strip() != "" for a in (found, *found.alternatives))


@pytest.mark.parametrize("family", FAMILIES)
def test_answer_compares_the_windows_of_all_texts(family):
    lm, texts = qa_model(family), {"b": "It was a cold morning. " * 12, "a": TEXT, "c": "没有人知道"}
    found = answer(QUESTION, context=texts, model=lm, top=6, max_answer_tokens=6, **CUT)
    wanted, _ = search_all(lm, QUESTION, list(texts.values()), top=6, max_tokens=6, **CUT)
    close(listed(found), [(list(texts)[n], *rest) for n, *rest in wanted])
    assert all(texts[a.file][a.start : a.end] == a.text for a in (found, *found.alternatives))


@pytest.mark.parametrize(("name", "count"), [("squad_v1.1_dev", 200), ("cmrc2018_dev", 50)])
def test_answers_to_real_questions_equal_a_search_over_all_spans(data, name, count):
    lm = with_tokenizer("bert", chinese_tokenizer(data), num_hidden_layers=1, max_position_embeddings=192)
    rows = read_questions(data / f"qa/{name}.json", count)
    settings = {"max_length": 160, "stride": 48}
    found = answer_batch([q for q, _ in rows], contexts=[c for _, c in rows], model=lm, top=2, **settings)
    several = 0
    for (question, text), ours in zip(rows, found, strict=True):
        wanted, _ = search_all(lm, question, [text], top=2, max_tokens=30, **settings)
        close(listed(ours), [(None, *row[1:]) for row in wanted])
        several += len(lm.tokenizer(question, text)["input_ids"]) > 160
    assert several > count / 4


def test_score_of_one_window_is_that_of_the_pipeline_of_transformers_4():
    # Source: transformers 4.57, pipelines/question_answering.py: masked softmax of starts and ends, then their product
    lm, text = qa_model("bert"), "Once upon a time, hello world morning"
    encoded = lm.tokenizer(QUESTION, text, return_tensors="pt")
    with torch.inference_mode():
        out = lm.model(**encoded)
    mask = torch.tensor([s != 1 for s in encoded.sequence_ids(0)])
    mask[0] = False
    start, end = ((logits[0].masked_fill(mask, -10000.0)).softmax(0) for logits in (out.start_logits, out.end_logits))
    null = float(start[0] * end[0])
    start[0] = end[0] = 0.0
    best = float(torch.outer(start, end).triu().tril(29).max())
    found = answer(QUESTION, context=text, model=lm)
    empty = answer(QUESTION, context=text, model=lm, no_answer_threshold=-1e9)
    assert (found.score, empty.score) == pytest.approx((best, null), rel=1e-9)


# --- no answer


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_answer_is_empty_where_no_answer_scores_by_the_threshold_above_the_best_span(family):
    lm = qa_model(family)
    best, null = search_all(lm, QUESTION, [TEXT], top=3, max_tokens=30, **CUT)
    gap = math.log(null / best[0][3])
    given = {"context": TEXT, "model": lm, "top": 3, **CUT}
    whole = answer(QUESTION, **given)
    assert answer(QUESTION, no_answer_threshold=gap + 1e-6, **given) == whole
    empty = answer(QUESTION, no_answer_threshold=gap - 1e-6, **given)
    assert (empty.text, empty.start, empty.end, empty.file) == ("", 0, 0, None)
    assert empty.score == pytest.approx(null, rel=1e-9)
    assert [a.text for a in empty.alternatives] == [whole.text, whole.alternatives[0].text]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_threshold_needs_a_token_that_means_no_answer(family):
    with pytest.raises(InputError) as caught:
        answer(QUESTION, context=TEXT, model=qa_model(family), no_answer_threshold=0)
    assert str(caught.value) == (
        f"no_answer_threshold needs a token that means no answer, which the tokenizer of {family} lacks; expected one "
        "that begins each pair with a token such as [CLS]"
    )


# --- batches


@pytest.mark.parametrize("family", FAMILIES)
def test_answer_batch_gives_what_each_question_gets_alone(family):
    lm = qa_model(family, torch.float32)
    questions = ["Who?", QUESTION, "What is the end of it, and when was that?"] * 2
    contexts = [TEXT, "It was.", "人工智能的未来是什么？", {"x": TEXT[:90], "y": "It was a cold morning"}, TEXT, "Who"]
    settings = {"model": lm, "top": 2, **CUT}
    alone = [answer(q, context=c, batch_size=1, **settings) for q, c in zip(questions, contexts, strict=True)]
    for batch_size in (None, 4):
        batch = answer_batch(questions, contexts=contexts, batch_size=batch_size, **settings)
        for one, other in zip(batch, alone, strict=True):
            assert [row[:3] for row in listed(one)] == [row[:3] for row in listed(other)]
            assert [row[3] for row in listed(one)] == pytest.approx([row[3] for row in listed(other)], rel=1e-4)


def test_answer_batch_plans_windows_of_many_questions_together():
    lm, rows = qa_model("bert"), []
    hook = lm.model.register_forward_pre_hook(
        lambda m, a, given: rows.append(given["input_ids"].shape), with_kwargs=True
    )
    try:
        answer_batch(["Who?"] * 5, contexts=TEXT, model=lm, batch_size=8, **CUT)
    finally:
        hook.remove()
    windows = len(
        prepare(lm, Settings(**CUT)).run.__self__.ask("Who?", prepare(lm, Settings(**CUT)).read(TEXT)).windows
    )
    assert sum(n for n, _ in rows) == 5 * windows
    assert [n for n, _ in rows[:-1]] == [8] * (len(rows) - 1)


def test_answer_batch_encodes_a_text_once(monkeypatch):
    seen, encode = [], pairs.encode_context
    monkeypatch.setattr(pairs, "encode_context", lambda tokenizer, text: seen.append(text) or encode(tokenizer, text))
    named = {"x": "It was"}
    answer_batch(["a", "b", "c", "d"], contexts=[TEXT, TEXT, named, named], model=qa_model("bert"))
    assert seen == [TEXT, "It was"]


def test_answer_batch_takes_texts_for_all_questions():
    lm = qa_model("bert")
    named = {"x": TEXT, "y": "It was a cold morning"}
    assert answer_batch(["Who?", QUESTION], contexts=named, model=lm) == [
        answer(q, context=named, model=lm) for q in ("Who?", QUESTION)
    ]


def test_answer_batch_gives_nothing_for_no_questions():
    assert answer_batch([], contexts=[], model=qa_model("bert")) == []


def test_answer_halves_a_batch_that_the_device_cannot_hold(notes):
    lm = qa_model("bert")

    def fill(module, arguments, given):
        if len(given["input_ids"]) > 2:
            raise torch.OutOfMemoryError

    whole = answer(QUESTION, context=TEXT, model=lm, **CUT)
    hook = lm.model.register_forward_pre_hook(fill, with_kwargs=True)
    try:
        found = answer(QUESTION, context=TEXT, model=lm, **CUT)
    finally:
        hook.remove()
    close(listed(found), listed(whole))
    assert len([note for note in notes if "memory is full" in note]) == 1


def test_answer_takes_windows_as_the_checkpoint_states_them():
    lm = qa_model("bert")
    stating = Loaded(lm.model, lm.tokenizer, "stating", {"max_length": 64, "stride": 20})
    assert answer(QUESTION, context=TEXT, model=stating) == answer(QUESTION, context=TEXT, model=lm, **CUT)


def test_answer_says_that_the_model_gave_no_numbers():
    lm = qa_model("bert")
    hook = lm.model.qa_outputs.register_forward_hook(lambda m, i, out: out * math.nan)
    try:
        with pytest.raises(RunError, match=r"^the model gave scores that are not finite$"):
            answer(QUESTION, context=TEXT, model=lm)
    finally:
        hook.remove()


# --- what cannot be answered

READS = {"model": MISSING}
ERRORS = [
    ({"top": 0, **READS}, "top out of range, got 0; expected a whole number from 1"),
    ({"top": True, **READS}, "top out of range, got True; expected a whole number from 1"),
    ({"max_answer_tokens": None, **READS}, "max_answer_tokens out of range, got None; expected a whole number from 1"),
    ({"max_length": 1.5, **READS}, "max_length out of range, got 1.5; expected a whole number from 1"),
    ({"batch_size": 0, **READS}, "batch_size out of range, got 0; expected a whole number from 1"),
    ({"stride": -1, **READS}, "stride out of range, got -1; expected a whole number from 0"),
    (
        {"no_answer_threshold": math.nan, **READS},
        "no_answer_threshold out of range, got nan; expected a number of nats",
    ),
    ({"max_length": 129}, "max_length too large, got 129; expected at most 128, the model's context"),
    ({"question": " "}, "the question is empty; expected at least one word"),
    ({"context": ""}, "the text to answer from is empty; expected at least one word"),
    ({"context": "\n \t"}, "the text to answer from is empty; expected at least one word"),
    ({"context": "\x01\x02"}, "the text to answer from holds nothing that the tokenizer keeps"),
    ({"context": {}}, "no text to answer from, got none by name; expected at least one"),
    ({"context": {"a": "x", "b": ""}}, "b: the text to answer from is empty; expected at least one word"),
    ({"question": "x " * 125}, "the question is too long, got 125 tokens; expected at most 124 in windows of 128"),
    ({"question": "x " * 5000}, "the question is too long, got 5,000 tokens; expected at most 124 in windows of 128"),
    (
        {"question": "x", "stride": 124},
        "stride too large, got 124; expected at most 123, since the question leaves room for 124 tokens of the text",
    ),
]


@pytest.mark.parametrize(("given", "sentence"), ERRORS)
def test_answer_says_in_one_sentence_what_must_be_mended(given, sentence):
    call = {"question": QUESTION, "context": TEXT, "model": qa_model("bert"), **given}
    with pytest.raises(InputError) as caught:
        answer(call.pop("question"), **call)
    assert str(caught.value) == sentence


def test_answer_takes_the_longest_question_that_fits():
    assert answer("x " * 124, context="It was", model=qa_model("bert"), stride=0).text


@pytest.mark.parametrize(
    ("questions", "contexts", "sentence"),
    [
        ("Who?", TEXT, "questions must be a list of questions, got str"),
        (["Who?", 5], TEXT, "question 1 must be a text, got int"),
        (["Who?"], 5, "contexts must be a text, texts by name or a list of them, got int"),
        (["Who?", "b"], [TEXT, None], "context 1 must be a text or texts by name, got NoneType"),
        (["Who?"], [{"a": 5}], "context 0 must hold texts by name, got int under 'a'"),
    ],
)
def test_answer_batch_names_what_is_of_a_wrong_type_before_anything_is_loaded(questions, contexts, sentence):
    with pytest.raises(TypeError) as caught:
        answer_batch(questions, contexts=contexts, model=MISSING)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("given", [{"question": 5}, {"context": None}, {"context": [TEXT]}])
def test_answer_refuses_what_is_no_text(given):
    call = {"question": QUESTION, "context": TEXT, "model": MISSING, **given}
    with pytest.raises(TypeError, match=r"^(question|context) must be a text"):
        answer(call.pop("question"), **call)


def test_answer_batch_wants_as_many_texts_as_questions():
    with pytest.raises(InputError, match=r"^contexts must be as many as questions, got 1 for 2$"):
        answer_batch(["a", "b"], contexts=[TEXT], model=MISSING)


def test_answer_batch_names_a_question_that_cannot_be_answered_before_the_first_is():
    lm, fed = qa_model("bert"), []
    hook = lm.model.register_forward_pre_hook(lambda *_: fed.append(1))
    try:
        with pytest.raises(InputError, match=r"^question 1: the question is empty; expected at least one word$"):
            answer_batch(["a", ""], contexts=TEXT, model=lm)
    finally:
        hook.remove()
    assert fed == []


# --- answers that a model writes


class Template:
    chat_template = "{{ messages }}"


def test_question_prompt_asks_a_chat_model_in_its_last_turn():
    *example, turn = prompts.question_prompt(Template(), "Who {x}?", "It was {context}.")
    assert [message["role"] for message in example] == ["user", "assistant"]
    assert turn["role"] == "user"
    assert turn["content"].startswith("It was {context}.\n\nQuestion: Who {x}?\n")


def test_question_prompt_lets_any_other_model_go_on():
    lm = qa_model("gpt2")
    assert prompts.question_prompt(lm.tokenizer, "Who?", "It was.") == "It was.\n\nQuestion: Who?\nAnswer:"


@pytest.fixture
def writes(loaded, monkeypatch):
    """A function that gives a tiny causal model which writes what it is told, each with its probability."""
    lm = loaded("gpt2")

    def tell(*answers):
        told = iter(answers)

        def run(job, starts, *, batch_size):
            return [Generation(next(told)[0], (1, 2), "stop", len(s.ids), None, 0.0) for s in starts]

        monkeypatch.setattr(generated_answers.generation.Job, "run", run)
        probabilities = iter([p for _, p in answers])
        monkeypatch.setattr(
            generated_answers.scoring,
            "score_continuations",
            lambda model, prompts, continuations, budget: [
                [math.log(p) / 2] * 2 for p in itertools.islice(probabilities, len(prompts))
            ],
        )
        return lm

    return tell


def test_answer_that_is_written_has_its_place_where_it_stands_in_the_text(writes):
    found = answer("Who?", context="It was 小明.", model=writes((" 小明\n", 0.25)), max_answer_tokens=5)
    assert found == Answer("小明", pytest.approx(0.25), 7, 9)


def test_answer_that_is_written_has_no_place_where_it_does_not_stand_in_the_text(writes):
    found = answer("Who?", context="It was 小明.", model=writes(("somebody", 0.25)), max_answer_tokens=5)
    assert found == Answer("somebody", pytest.approx(0.25), None, None)


def test_answer_that_is_written_has_its_place_in_the_window_that_was_read(writes, loaded):
    text = "cold, " + "It was a grey morning. " * 6 + "cold"
    job = prepare(loaded("gpt2"), Settings(max_answer_tokens=4))
    windows = job.ask("What?", job.read(text)).windows
    lm = writes(*[("", 1.0)] * (len(windows) - 1), ("cold", 0.5))
    assert answer("What?", context=text, model=lm, max_answer_tokens=4).start == text.rindex("cold") > 0
    assert len(windows) > 2


def test_answer_that_is_written_is_the_surest_of_all_texts(writes):
    texts = {"a": "It was 小明.", "b": "It was cold", "c": "Nobody", "d": "It"}
    lm = writes(("小明", 0.2), ("cold", 0.5), ("  ", 1.0), ("It", 0.1))
    found = answer("Who?", context=texts, model=lm, max_answer_tokens=5, top=3)
    assert [(a.text, a.file) for a in (found, *found.alternatives)] == [("cold", "b"), ("小明", "a"), ("It", "d")]


def test_answer_is_empty_where_nothing_is_written(writes):
    assert answer("Who?", context="It was", model=writes(("", 1.0)), max_answer_tokens=5) == Answer("", 0.0, 0, 0)


def test_answer_that_is_written_reads_a_long_text_in_windows(loaded):
    lm, text = loaded("gpt2"), "It was a cold morning, and nobody answered. 小明 😀 " * 8
    job = prepare(lm, Settings(max_answer_tokens=4, stride=3)).way
    asked = list(job._lay_out(0, job.ask("Who?", job.read(text))))
    assert all(len(a.start.ids) <= job.limit == 60 for a in asked)
    assert (asked[0].begin, asked[-1].end) == (0, len(text))
    assert all(one.begin < two.begin < one.end for one, two in itertools.pairwise(asked))
    decoded = [lm.tokenizer.decode(a.start.ids) for a in asked]
    assert all(text[a.begin : a.end] in words for a, words in zip(asked, decoded, strict=True))


def test_window_whose_prompt_does_not_fit_after_all_is_cut_in_two(loaded, monkeypatch):
    monkeypatch.setattr(generated_answers, "SLACK", -20)
    lm, text = loaded("gpt2"), "It was a cold morning, and nobody answered. " * 8
    job = prepare(lm, Settings(max_answer_tokens=4, stride=0)).way
    asked = list(job._lay_out(0, job.ask("Who?", job.read(text))))
    assert all(len(a.start.ids) <= job.limit for a in asked)
    assert "".join(text[a.begin : a.end] for a in asked).replace(" ", "") == text.replace(" ", "")


def test_answer_that_is_written_scores_as_the_product_of_its_tokens(loaded):
    lm, text = loaded("gpt2"), "It was a cold morning"
    found = answer("Who?", context=text, model=lm, max_answer_tokens=4)
    prompt = lm.tokenizer(f"{text}\n\nQuestion: Who?\nAnswer:")["input_ids"]
    ids, probability = list(prompt), 1.0
    for _ in range(4):
        with torch.inference_mode():
            chances = lm.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        ids.append(int(chances.argmax()))
        probability *= float(chances.max())
    written = lm.tokenizer.decode(ids[len(prompt) :])
    assert "\n" not in written
    assert (found.text, found.score) == (written.strip(), pytest.approx(probability, rel=1e-4))


def test_answers_that_are_written_in_a_batch_are_those_alone(loaded):
    lm = loaded("gpt2")
    rows = [("Who?", "It was a cold morning " * 9), ("What is it?", {"x": "He said", "y": "nobody"}), ("谁", "小明")]
    settings = {"model": lm, "max_answer_tokens": 5, "top": 3}
    batch = answer_batch([q for q, _ in rows], contexts=[c for _, c in rows], **settings)
    alone = [answer(q, context=c, batch_size=1, **settings) for q, c in rows]
    for one, other in zip(batch, alone, strict=True):
        assert [row[:3] for row in listed(one)] == [row[:3] for row in listed(other)]
        assert [row[3] for row in listed(one)] == pytest.approx([row[3] for row in listed(other)], rel=1e-3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"no_answer_threshold": 0.0},
            "no_answer_threshold needs a model with a head for question answering; the model writes its answers",
        ),
        ({"question": ""}, "the question is empty; expected at least one word"),
        ({"context": " "}, "the text to answer from is empty; expected at least one word"),
        (
            {"question": "Z" * 40},
            "the question is too long, got 58 tokens with the words around it; expected at most 51",
        ),
        (
            {"stride": 40},
            "stride too large, got 40; expected at most 29, since the question leaves room for 30 tokens of the text",
        ),
        (
            {"max_answer_tokens": 60},
            "max_answer_tokens too large, got 60; expected fewer than 56 in windows of 64 tokens",
        ),
        ({"max_length": 65}, "max_length too large, got 65; expected at most 64, the model's context"),
    ],
)
def test_answer_that_is_to_be_written_says_what_must_be_mended(loaded, given, sentence):
    lm = loaded("gpt2")
    call = {"question": "Who?", "context": "It was", "max_answer_tokens": 4, **given}
    with pytest.raises(InputError) as caught:
        answer(call.pop("question"), model=Loaded(lm.model, lm.tokenizer), **call)
    assert str(caught.value) == sentence


@pytest.mark.real
def test_answer_is_copied_from_the_text_by_a_real_model(smollm2):
    text = "The Eiffel Tower is named after the engineer Gustave Eiffel. It is 330 metres tall."
    found = answer("How tall is the Eiffel Tower?", context=text, model=smollm2)
    assert "330" in found.text
