import pytest
import torch
from conftest import TEXTS, byte_level_tokenizer, wordpiece_tokenizer
from small_classifiers import NLI, SHAPES, make

from llmkit import Classification, InputError, Loaded, RunError, classify, classify_batch, sentiment, sentiment_batch
from llmkit.encoding import prompts
from llmkit.tasks.classification import prepare
from llmkit.tasks.logits import Head

MISSING = "no/such/checkpoint"  # a call that fails on it has begun to load
LABELS = ["negative", "positive"]
SHORT = [
    "Once upon a time",
    "hello",
    "今天天气很好",
    "👍🏽 nice 😀",
    "Good morning, hello world! It was grey.",
    "x " * 9,
]


@pytest.fixture(scope="session")
def bert():
    return make("bert")


@pytest.fixture(scope="session")
def nli():
    return make("bert", **NLI)


@pytest.fixture(scope="session")
def gpt2(loaded):
    return loaded("gpt2", n_positions=96)


def close(result, expected, tolerance=1e-6):
    """Whether two results are the same but for rounding."""
    same = (result.label, result.num_windows, list(result.scores)) == (
        expected.label,
        expected.num_windows,
        list(expected.scores),
    )
    return same and all(abs(result.scores[k] - expected.scores[k]) <= tolerance for k in expected.scores)


def logits_of(lm, ids):
    """What the model says of one row."""
    with torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0].double()


# --- heads, beside transformers' own pipeline

HEADS = {
    "bert": {},
    "roberta": {},
    "gpt2 with a padding id": {"kind": "gpt2", "pad_token_id": 0},
    "gpt2 without one": {"kind": "gpt2", "pad_token_id": None},
    "llama with a padding id": {"kind": "llama", "pad_token_id": 2},
    "llama without one": {"kind": "llama", "pad_token_id": None},
    "bloom, without positions": {"kind": "bloom", "pad_token_id": None},
    "fnet, which mixes columns": {"kind": "fnet"},
    "several labels at once": {"kind": "bert", "problem_type": "multi_label_classification"},
    "one label": {"kind": "bert", "labels": ["spam"]},
    "regression": {"kind": "bert", "labels": ["stars"], "problem_type": "regression"},
    "regression on several": {"kind": "gpt2", "problem_type": "regression"},
}


@pytest.mark.parametrize("name", HEADS)
def test_classify_batch_equals_the_pipeline_of_transformers(name):
    from transformers import TextClassificationPipeline

    settings = {"kind": name, **HEADS[name]}
    lm = make(settings.pop("kind"), **settings)
    before = lm.model.config.to_dict()
    pipe = TextClassificationPipeline(model=lm.model, tokenizer=lm.tokenizer, top_k=None)
    texts = [*SHORT, *SHORT[:1]]
    for result, rows in zip(classify_batch(texts, model=lm), pipe(texts, batch_size=1), strict=True):
        theirs = {row["label"]: row["score"] for row in rows}
        expected = Classification(rows[0]["label"], rows[0]["score"], theirs, 1)
        assert close(result, expected, 1e-5), (result, expected)
        assert (str(result), result.score) == (result.label, result.scores[result.label])
    assert lm.model.config.to_dict() == before


WAYS = {"bert": "padded", "roberta": "padded", "gpt2": "padded", "fnet": "equal"}


@pytest.mark.parametrize("kind", WAYS)
def test_head_finds_how_rows_stand_together(kind):
    assert Head(make(kind)).find_way() == WAYS[kind]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_head_reads_the_last_token_itself_where_there_is_no_padding_id(kind):
    assert Head(make(kind, pad_token_id=None)).find_way() == "pooled"


def test_head_reads_rows_alone_where_nothing_else_will_do(monkeypatch):
    lm = make("gpt2", pad_token_id=None)
    body = type(lm.model).base_model
    monkeypatch.setattr(type(lm.model), "base_model", property(lambda self: (_ for _ in ()).throw(ValueError())))
    results = classify_batch(SHORT, model=lm)
    monkeypatch.setattr(type(lm.model), "base_model", body)
    assert all(close(a, b) for a, b in zip(results, classify_batch(SHORT, model=lm), strict=True))


def test_classify_reads_a_last_token_that_is_the_padding_as_it_does_alone():
    lm = make("gpt2", pad_token_id=0)
    texts = ["hello<|endoftext|>", "Once upon a time there was"]
    for result, text in zip(classify_batch(texts, model=lm), texts, strict=True):
        expected = logits_of(lm, lm.tokenizer(text)["input_ids"]).softmax(-1)
        assert result.score == pytest.approx(float(expected.max()), abs=1e-6)


def test_classify_gives_token_types_where_the_tokenizer_does(bert):
    seen = []
    hook = bert.model.bert.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    try:
        classify("hello", model=bert)
    finally:
        hook.remove()
    assert seen[0]["token_type_ids"].tolist() == [[0] * seen[0]["input_ids"].shape[1]]


# --- windows


def brute_force(lm, text, size, overlap, read):
    """Read a text in windows one by one, each with its special tokens, and average what the model says, in float64."""
    ids, room = lm.tokenizer(text, add_special_tokens=False)["input_ids"], size - 2
    total, weight, starts = 0, 0, [0]
    while starts[-1] + room < len(ids):
        starts.append(starts[-1] + room - overlap)
    for start in starts:
        part = ids[start : start + room]
        total, weight = total + len(part) * logits_of(lm, [2, *part, 3]), weight + len(part)
    return read(total / weight), len(starts)


@pytest.mark.parametrize("stride", [None, 7, 19])
@pytest.mark.parametrize("text", [" ".join(TEXTS), TEXTS[0] * 3, "hello " * 30, "hello " * 31, "人工智能👍🏽" * 40])
def test_classify_averages_windows_by_their_tokens(text, stride):
    lm = make("bert")
    lm.model.double()
    scores, windows = brute_force(lm, text, 32, stride or 0, lambda logits: logits.softmax(-1))
    result = classify(text, model=lm, max_length=32, stride=stride)
    assert windows == result.num_windows
    expected = dict(zip(["negative", "neutral", "positive"], scores.tolist(), strict=True))
    assert result.scores == pytest.approx(expected, abs=1e-9)


def test_classify_averages_before_the_function(bert):
    lm = make("bert", problem_type="multi_label_classification")
    lm.model.double()
    scores, _ = brute_force(lm, TEXTS[0] * 2, 40, 0, lambda logits: logits.sigmoid())
    assert sorted(classify(TEXTS[0] * 2, model=lm, max_length=40).scores.values()) == pytest.approx(
        sorted(scores.tolist())
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama", "fnet"])
def test_classify_reads_windows_of_what_the_model_takes_in_batches_as_alone(kind):
    lm = make(kind, **({"pad_token_id": None} if kind in ("gpt2", "llama") else {}))
    texts = [*TEXTS, *SHORT, " ".join(TEXTS) * 2]
    batch = classify_batch(texts, model=lm)
    assert max(result.num_windows for result in batch) > 3
    alone = [classify_batch([text], model=lm, batch_size=1)[0] for text in texts]
    assert all(close(a, b, 1e-5) for a, b in zip(batch, alone, strict=True))


def test_classify_reads_what_fills_the_model_in_one_window_and_a_token_more_in_two(bert):
    assert [classify("hello " * n, model=bert).num_windows for n in (62, 63)] == [1, 2]


def test_classify_reads_what_fills_a_roberta_in_one_window():
    lm = make("roberta")  # positions from the padding id on: 62 of 64
    assert [classify("Z" * n, model=lm).num_windows for n in (62, 63)] == [1, 2]


def test_classify_takes_windows_from_the_tokenizer_and_from_the_facts(bert):
    limited = wordpiece_tokenizer()
    limited.model_max_length = 20
    text = "hello " * 36
    facts = {"max_length": 14, "stride": 4}
    by_tokenizer = classify(text, model=Loaded(bert.model, limited))
    by_facts = Loaded(bert.model, bert.tokenizer, facts=facts)
    assert (by_tokenizer.num_windows, classify(text, model=by_facts).num_windows) == (2, 4)
    assert classify(text, model=by_facts, max_length=38, stride=0).num_windows == 1
    trained = Loaded(bert.model, limited, facts={"max_length": 38})  # on rows longer than the tokenizer states
    assert classify(text, model=trained).num_windows == 1


def test_classify_takes_labels_from_the_facts(bert):
    lm = Loaded(bert.model, bert.tokenizer, facts={"labels": ["bad", "so-so", "good"]})
    assert set(classify("hello", model=lm).scores) == {"bad", "so-so", "good"}


def test_classify_plans_so_many_windows_together(bert, monkeypatch):
    texts = [*TEXTS, *SHORT]
    wanted, sizes, compute = classify_batch(texts, model=bert), [], Head.compute
    monkeypatch.setattr(
        Head, "compute", lambda self, rows, budget: sizes.append(len(rows)) or compute(self, rows, budget)
    )
    monkeypatch.setattr("llmkit.tasks.classification.AT_ONCE", 7)
    assert all(close(a, b, 1e-5) for a, b in zip(classify_batch(texts, model=bert), wanted, strict=True))
    assert max(sizes) == 7


def test_classify_halves_batches_when_the_memory_is_full(monkeypatch, notes):
    lm = make("bert")
    lm.model.double()
    forward, sizes = Head._forward, []

    def small(self, rows, way):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return forward(self, rows, way)

    expected = classify_batch(SHORT, model=lm)
    monkeypatch.setattr(Head, "_forward", small)
    monkeypatch.setattr("llmkit.runtime.BUSY_TOKENS", {"cpu": 256})
    assert all(close(a, b, 1e-12) for a, b in zip(classify_batch(SHORT, model=lm), expected, strict=True))
    assert max(sizes) > 2
    assert [note for note in notes if "memory is full" in note] != []


# --- texts that are short of something


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("text", ["", "\ud800", " \n"])
def test_classify_labels_an_empty_or_broken_text(kind, text):
    lm = make(kind)
    result = classify(text, model=lm)
    ids = lm.tokenizer(prompts.replace_surrogates(text))["input_ids"] or [lm.tokenizer.bos_token_id]
    assert result.score == pytest.approx(float(logits_of(lm, ids).softmax(-1).max()), abs=1e-6)


def test_classify_names_an_empty_text_when_there_is_no_token_to_begin_with():
    tokenizer = byte_level_tokenizer()
    lm = make("gpt2", tokenizer=tokenizer)
    tokenizer.bos_token = tokenizer.eos_token = None
    sentence = "the text is empty and the tokenizer has no token to begin a text with"
    with pytest.raises(InputError) as one:
        classify("", model=lm)
    with pytest.raises(InputError) as many:
        classify_batch(["a", ""], model=lm)
    assert (str(one.value), str(many.value)) == (sentence, f"text 1: {sentence}")


def test_classify_batch_gives_nothing_for_no_texts(bert):
    assert classify_batch([], model=bert) == []


def test_classify_says_that_scores_are_not_finite(bert):
    lm = make("bert")
    with torch.no_grad():
        lm.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"^tiny gives scores that are not finite$"):
        classify("hello", model=lm)


# --- entailment


@pytest.mark.parametrize("labels", [["sports", "politics and war", "hello"], ["hello"]])
@pytest.mark.parametrize("hypothesis", [None, "hello {} world"])
def test_classify_equals_the_zero_shot_pipeline_of_transformers(nli, labels, hypothesis):
    from transformers import ZeroShotClassificationPipeline

    pipe = ZeroShotClassificationPipeline(model=nli.model, tokenizer=nli.tokenizer)
    template = {"hypothesis_template": hypothesis} if hypothesis else {}
    for text, result in zip(SHORT, classify_batch(SHORT, model=nli, labels=labels, hypothesis=hypothesis), strict=True):
        theirs = pipe(text, labels, **template)
        scores = dict(zip(theirs["labels"], theirs["scores"], strict=True))
        expected = Classification(theirs["labels"][0], theirs["scores"][0], scores, 1)
        assert close(result, expected, 1e-5)


def test_classify_reads_a_long_text_in_the_same_windows_for_each_label(nli):
    labels, text = ["hello", "good morning world"], "hello " * 80
    result = classify(text, model=nli, labels=labels)
    hypotheses = [nli.tokenizer(f"This example is {label}.", add_special_tokens=False)["input_ids"] for label in labels]
    room = 64 - 3 - max(map(len, hypotheses))
    ids, sums = nli.tokenizer(text, add_special_tokens=False)["input_ids"], []
    for hypothesis in hypotheses:
        total = 0
        for start in range(0, len(ids), room):
            part = ids[start : start + room]
            row = [2, *part, 3, *hypothesis, 3]
            types = [0] * (len(part) + 2) + [1] * (len(hypothesis) + 1)
            with torch.no_grad():
                logits = nli.model(torch.tensor([row]), token_type_ids=torch.tensor([types])).logits[0]
            total += len(part) * float(logits[2])
        sums.append(total / len(ids))
    expected = torch.tensor(sums).softmax(-1).tolist()
    assert result.num_windows == -(-len(ids) // room) > 1
    assert [result.scores[label] for label in labels] == pytest.approx(expected, abs=1e-5)


def test_sentiment_asks_an_entailment_model_for_negative_and_positive(nli):
    assert close(sentiment("hello", model=nli), classify("hello", model=nli, labels=LABELS))


def test_classify_keeps_the_labels_of_an_entailment_model_when_none_are_given(nli):
    assert set(classify("hello", model=nli).scores) == {"contradiction", "neutral", "ENTAILMENT"}


# --- the words of a language model


@pytest.mark.parametrize("tokenizer", ["byte-level", "fallback", "wordpiece"])
def test_classify_scores_labels_after_a_prompt_as_brute_force_does(loaded, tokenizer):
    lm, labels = loaded("gpt2", tokenizer, n_positions=128), ["good", "bad morning", "今天"]
    batch = classify_batch(SHORT, model=lm, labels=labels)
    for text, result in zip(SHORT, batch, strict=True):
        sums = []
        for label in labels:
            ids = prompts.encode_text(lm.tokenizer, f"Text: {text}\nLabel: {label}")
            begin = len(prompts.encode_text(lm.tokenizer, f"Text: {text}\nLabel:"))
            with torch.no_grad():
                found = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(found[i - 1, ids[i]]) for i in range(begin, len(ids))))
        expected = torch.tensor(sums).softmax(-1).tolist()
        assert [result.scores[label] for label in labels] == pytest.approx(expected, abs=1e-5)
        assert result.num_windows == 1


def test_sentiment_asks_a_language_model_for_negative_and_positive(gpt2):
    result = sentiment("hello", model=gpt2)
    assert set(result.scores) == set(LABELS)
    assert sum(result.scores.values()) == pytest.approx(1)


def test_sentiment_reads_a_long_text_in_windows_with_a_language_model(gpt2):
    batch = sentiment_batch([" ".join(TEXTS), *SHORT, "👍🏽" * 60], model=gpt2)
    assert [result.num_windows > 1 for result in batch] == [True, *[False] * len(SHORT), True]
    assert close(batch[0], sentiment(" ".join(TEXTS), model=gpt2, batch_size=1), 1e-5)


# --- arguments


def test_sentiment_keeps_the_labels_of_a_head(bert):
    assert close(sentiment("hello", model=bert), classify("hello", model=bert))
    assert close(sentiment_batch(["hello"], model=bert)[0], classify("hello", model=bert))


def test_classify_takes_the_labels_of_a_head_in_any_order(bert):
    assert close(
        classify("hello", model=bert, labels=["positive", "negative", "neutral"]), classify("hello", model=bert)
    )


@pytest.mark.parametrize("call", [classify_batch, sentiment_batch])
@pytest.mark.parametrize("wrong", [5, None, b"x", ["x"]])
def test_classify_batch_names_a_text_of_a_wrong_type_before_anything_is_loaded(call, wrong):
    with pytest.raises(TypeError) as caught:
        call(["a", "b", wrong], model=MISSING)
    assert str(caught.value) == f"text 2 must be a str, got {type(wrong).__name__}"


@pytest.mark.parametrize("wrong", ["text", 5, None, {"text"}])
def test_classify_batch_refuses_what_is_no_list_of_texts(wrong):
    with pytest.raises(TypeError, match=rf"^texts must be a list of texts, got {type(wrong).__name__}$"):
        classify_batch(wrong, model=MISSING)


@pytest.mark.parametrize("call", [classify, sentiment])
def test_classify_refuses_what_is_no_text(call):
    with pytest.raises(TypeError, match=r"^the text must be a str, got list$"):
        call(["text"], model=MISSING)


ARGUMENTS = [
    ({"max_length": 0}, "max_length out of range, got 0; expected a whole number from 1"),
    ({"batch_size": True}, "batch_size out of range, got True; expected a whole number from 1"),
    ({"stride": -1}, "stride out of range, got -1; expected a whole number from 0"),
    ({"stride": 1.5}, "stride out of range, got 1.5; expected a whole number from 0"),
    ({"labels": []}, "labels must be there, not empty and each once, got none"),
    ({"labels": ["a", "a"]}, "labels must be there, not empty and each once, got a, a"),
    ({"labels": ["a", " "]}, "labels must be there, not empty and each once, got a,  "),
    *(
        (
            {"hypothesis": hypothesis},
            f"hypothesis needs a place for the label, got {hypothesis!r}; expected such as 'This example is {{}}.'",
        )
        for hypothesis in ("", "no place", "{a}", "{} {}", "{")
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), ARGUMENTS)
def test_classify_refuses_an_argument_before_anything_is_loaded(arguments, sentence):
    with pytest.raises(InputError) as caught:
        classify("text", model=MISSING, **arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("labels", ["a,b", [1], 5])
def test_classify_refuses_labels_of_a_wrong_type(labels):
    with pytest.raises(TypeError, match=r"^labels must be a list of str, got "):
        classify("text", model=MISSING, labels=labels)


MISFITS = [
    ("bert", {"labels": ["a", "b"]}, "tiny has the labels negative, neutral, positive, got a, b"),
    ("bert", {"hypothesis": "{}", "labels": ["a"]}, "hypothesis goes with a model trained on entailment, tiny is none"),
    (
        "nli",
        {"hypothesis": "{}"},
        "hypothesis needs the labels that are set into it, got none; expected labels beside it",
    ),
    ("bert", {"max_length": 65}, "max_length out of range, got 65; expected at most 64, which tiny takes"),
    ("bert", {"max_length": 2}, "a window of 2 tokens leaves no room for the text beside what is asked of it"),
    (
        "bert",
        {"max_length": 12, "stride": 10},
        "stride out of range, got 10; expected less than 10, the tokens of text in a window",
    ),
    (
        "nli",
        {"labels": ["hello " * 70]},
        "a window of 64 tokens leaves no room for the text beside what is asked of it",
    ),
]


@pytest.mark.parametrize(("which", "arguments", "sentence"), MISFITS)
def test_classify_refuses_what_does_not_go_with_the_checkpoint(request, which, arguments, sentence):
    with pytest.raises(InputError) as caught:
        classify("text", model=request.getfixturevalue(which), **arguments)
    assert str(caught.value) == sentence


def test_classify_needs_labels_for_a_language_model(gpt2):
    nameless = Loaded(gpt2.model, gpt2.tokenizer)
    with pytest.raises(InputError) as caught:
        classify("text", model=nameless)
    assert str(caught.value) == ("the model is a language model without labels of its own, got 0; expected two or more")


def test_classify_refuses_a_head_for_another_task(bert):
    from transformers import BertConfig, BertForQuestionAnswering

    model = BertForQuestionAnswering(BertConfig(vocab_size=300, **SHAPES["bert"]))
    with pytest.raises(InputError, match=r"has a head for question-answering, this call needs one for classification$"):
        classify("text", model=Loaded(model, bert.tokenizer))


def test_classify_takes_a_checkpoint_by_its_name(bert, tmp_path):
    bert.model.save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    assert close(classify("hello", model=str(tmp_path)), classify("hello", model=bert))


def test_prepare_feeds_nothing(bert):
    fed = []
    hook = bert.model.register_forward_pre_hook(lambda *_: fed.append(1))
    try:
        prepare(bert).encode(["hello"])
    finally:
        hook.remove()
    assert fed == []


@pytest.mark.real
def test_sentiment_tells_reviews_apart_with_a_real_language_model(smollm2, data):
    rows = (data / "sentiment" / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:40]
    texts, gold = zip(*(row.split("\t") for row in rows), strict=True)
    found = sentiment_batch(texts, model=smollm2)
    assert sum(result.label == LABELS[int(label)] for result, label in zip(found, gold, strict=True)) >= 30
