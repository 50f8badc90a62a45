"""Evaluations against the verbs and the metrics, put together by hand."""

import json

import pytest
import torch
from conftest import byte_level_tokenizer, wordpiece_tokenizer
from datasets import Dataset

import llmkit
from llmkit import Evaluation, Loaded, metrics
from llmkit.data.sequences import find_label
from llmkit.errors import InputError
from llmkit.evaluation import planning
from llmkit.evaluation.planning import HEADS, make_plan
from llmkit.tasks import answering, classification

WORDS = ["once", "upon", "time", "hello", "world", "morning", "the", "a", "cold", "sea", "grey"]
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LABELS = {0: "negative", 1: "positive"}


def make(model_class, tokenizer, kind, **shape):
    """A tiny model with random weights, large enough that its choices are clear."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.4)
    return Loaded(model.eval(), tokenizer, "tiny")


@pytest.fixture(scope="module")
def classifier():
    from transformers import BertForSequenceClassification

    return make(BertForSequenceClassification, wordpiece_tokenizer(), "bert", **BERT, id2label=LABELS)


@pytest.fixture(scope="module")
def extractor():
    from transformers import BertForQuestionAnswering

    return make(BertForQuestionAnswering, wordpiece_tokenizer(), "bert", **BERT, max_position_embeddings=64)


@pytest.fixture(scope="module")
def translator():
    from transformers import BartForConditionalGeneration

    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 24}
    heads = {
        f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("ffn_dim", 64), ("attention_heads", 2))
    }
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
    return make(BartForConditionalGeneration, byte_level_tokenizer(), "bart", **shape, **heads, **ids)


def sentences(count, seed=0):
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=rng).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=rng).tolist()) for n in lengths]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def reviews(tmp_path):
    rows = [{"text": text, "label": ("negative", 1, "0")[i % 3]} for i, text in enumerate(sentences(150))]
    return write(tmp_path / "reviews.jsonl", rows)


def test_heads_are_those_of_the_verbs():
    verbs = {"translation": ("translation", "generation"), "question-answering": answering.TASKS}
    language = {"generation": ("generation",), "perplexity": ("generation",)}
    assert {**verbs, "classification": classification.TASKS, **language} == HEADS


def test_labels_are_scored_against_the_verb(classifier, reviews, monkeypatch):
    monkeypatch.setitem(planning.CHUNKS, "classification", 64)
    done = []
    result = llmkit.evaluate(classifier, on="sentiment", data=reviews, progress=done.append)
    rows = [json.loads(line) for line in reviews.read_text(encoding="utf-8").splitlines()]
    found = [one.label for one in llmkit.classify_batch([row["text"] for row in rows], model=classifier)]
    right = ["positive" if row["label"] == 1 else "negative" for row in rows]
    assert set(found) == {"negative", "positive"}
    assert result.metrics == {"accuracy": metrics.accuracy(found, right), "f1_macro": metrics.f1_macro(found, right)}
    assert (result.task, result.n, result.num_rows, result.seed, result.definition) == (
        "classification",
        150,
        150,
        None,
        None,
    )
    assert done == [64, 128, 150]


def test_language_model_takes_negative_and_positive_for_sentiment(loaded, reviews):
    lm = loaded("gpt2", n_positions=128)
    result = llmkit.evaluate(lm, on="sentiment", data=reviews, max_examples=9)
    plan = make_plan("sentiment", reviews, max_examples=9)
    rows = [row for chunk in plan.chunks(planning.Labelled, lambda done: None) for row in chunk]
    found = llmkit.sentiment_batch([row.text for row in rows], model=lm)
    names = [["negative", "positive"][find_label(row.label, ["negative", "positive"], "")] for row in rows]
    assert result.metrics["accuracy"] == metrics.accuracy([one.label for one in found], names)
    assert result.n == 9


def test_labels_count_from_zero_in_the_order_given(loaded, tmp_path):
    rows = [{"text": text, "label": 1} for text in sentences(6)]
    data, lm = write(tmp_path / "a.jsonl", rows), loaded("gpt2", n_positions=128)
    scores = [
        llmkit.evaluate(lm, on="classification", data=data, labels=labels).metrics["accuracy"]
        for labels in (["bad", "good"], ["good", "bad"])
    ]
    assert sum(scores) == pytest.approx(1)


def test_numbers_count_in_the_order_given_for_a_classifier_too(classifier, tmp_path):
    """Its own order is negative, positive."""
    rows = [{"text": text, "label": i % 3 // 2} for i, text in enumerate(sentences(9))]
    data = write(tmp_path / "a.jsonl", rows)
    scores = [
        llmkit.evaluate(classifier, on="sentiment", data=data, labels=labels).metrics["accuracy"]
        for labels in (None, ["negative", "positive"], ["positive", "negative"])
    ]
    assert scores[0] == scores[1] == pytest.approx(1 - scores[2])


def test_class_that_the_data_lack_is_noted(classifier, tmp_path, notes):
    rows = [{"text": text, "label": 0} for text in sentences(6)]
    llmkit.evaluate(classifier, on="sentiment", data=write(tmp_path / "a.jsonl", rows))
    assert notes.count("no example to evaluate on is labelled positive") == 1


@pytest.mark.parametrize(("label", "name"), [(0, "no"), ("1", "yes"), ("yes", "yes"), ("2", "2"), ("3", "3"), (3, "2")])
def test_label_is_a_name_before_it_is_a_number(label, name):
    names = ["no", "yes", "3", "2"]
    assert names[find_label(label, names, "")] == name


@pytest.mark.parametrize("label", ["neutral", 2, "2", -1, "-1", "", "9" * 5000])
def test_unknown_label_is_refused_with_its_row(classifier, tmp_path, label):
    rows = [{"text": "hello", "label": 1}, {"text": "world", "label": label}]
    data = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError) as caught:
        llmkit.evaluate(classifier, on="sentiment", data=data)
    expected = f"{data} row 2: unknown label, got {label!r}; expected negative, positive, or 0 to 1"
    assert str(caught.value) == expected


def questions(tmp_path, *, unanswerable):
    contexts = sentences(70, seed=1)
    rows = [
        {
            "question": "what ?",
            "context": f"hello {context} world",
            "answers": [] if unanswerable and i % 2 else [context.split()[0], "hello"],
        }
        for i, context in enumerate(contexts)
    ]
    return rows, write(tmp_path / "qa.jsonl", rows)


@pytest.mark.parametrize(("unanswerable", "definition"), [(False, "squad-v1.1"), (True, "squad-v2.0")])
def test_answers_are_scored_against_the_verb(extractor, tmp_path, unanswerable, definition):
    rows, data = questions(tmp_path, unanswerable=unanswerable)
    result = llmkit.evaluate(extractor, on="question-answering", data=data)
    threshold = 0.0 if unanswerable else None
    found = llmkit.answer_batch(
        [row["question"] for row in rows],
        contexts=[row["context"] for row in rows],
        model=extractor,
        no_answer_threshold=threshold,
    )
    pairs = [(one.text, row["answers"]) for one, row in zip(found, rows, strict=True)]
    exact = [metrics.exact_match(*pair, definition=definition) for pair in pairs]
    near = [metrics.f1(*pair, definition=definition) for pair in pairs]
    assert result.metrics == pytest.approx({"exact_match": 100 * sum(exact) / 70, "f1": 100 * sum(near) / 70})
    assert 0 < result.metrics["f1"] < 100
    assert result.definition == definition


def test_written_answers_have_no_threshold(loaded, tmp_path):
    _, data = questions(tmp_path, unanswerable=True)
    lm = loaded("gpt2", n_positions=256)
    result = llmkit.evaluate(lm, on="question-answering", data=data, max_examples=2)
    assert (result.n, result.definition) == (2, "squad-v2.0")


@pytest.mark.parametrize(
    ("question", "answer", "definition"),
    [("谁？", "1998", "cmrc-2018"), ("When?", "王", "cmrc-2018"), ("When?", "1998", "squad-v1.1")],
)
def test_definition_follows_the_language_of_most_rows(tmp_path, question, answer, definition):
    rows = [{"question": question, "context": "x", "answers": answer}] * 3
    other = [{"question": "谁？" if definition == "squad-v1.1" else "Who?", "context": "x", "answers": "x"}] * 2
    plan = make_plan("question-answering", write(tmp_path / "qa.jsonl", other + rows), max_examples=1)
    assert plan.survey.definition == definition


def test_empty_question_is_refused_with_its_row(tmp_path):
    data = write(tmp_path / "qa.jsonl", [{"question": " ", "context": "x", "answers": "x"}])
    with pytest.raises(InputError) as caught:
        make_plan("question-answering", data)
    assert str(caught.value) == f"{data} row 1: the question is empty; expected text"


def test_row_that_the_verb_refuses_is_named(extractor, tmp_path):
    good = {"question": "what ?", "context": "hello world", "answers": "hello"}
    data = write(tmp_path / "qa.jsonl", [*[good] * 66, {**good, "question": "hello " * 99}])
    with pytest.raises(InputError, match=rf"^{data} row 67: the question "):
        llmkit.evaluate(extractor, on="question-answering", data=data)


def test_translations_are_scored_against_the_verb(translator, tmp_path, monkeypatch):
    monkeypatch.setitem(planning.CHUNKS, "translation", 3)
    sources, targets = sentences(4, seed=2), sentences(4, seed=3)
    (tmp_path / "test.en").write_text("\n".join(sources), encoding="utf-8")
    (tmp_path / "test.zh").write_text("\n".join(targets), encoding="utf-8")
    data = {"source_path": tmp_path / "test.en", "target_path": tmp_path / "test.zh"}
    result = llmkit.evaluate(translator, on="translation", data=data, src_lang="en", tgt_lang="zh")
    found = [one.text for one in llmkit.translate_batch(sources, model=translator, src_lang="en", tgt_lang="zh")]
    scores = {"bleu": metrics.bleu(found, targets, tokenize="zh"), "chrf": metrics.chrf(found, targets)}
    assert result.metrics == {name: score.value for name, score in scores.items()}
    assert result.signatures == {name: score.signature for name, score in scores.items()}
    assert result.metrics["chrf"] > 0
    assert "tok:zh" in result.signatures["bleu"]


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_drawn_once_each_and_keep_their_order(reviews, seed):
    plan = make_plan("sentiment", reviews, max_examples=100, seed=seed)
    numbers = [int(row.where.rpartition(" ")[2]) for chunk in plan.chunks(planning.Labelled, print) for row in chunk]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == plan.num_chosen == 100
    assert plan.chosen == make_plan("sentiment", reviews, max_examples=100, seed=seed).chosen
    assert plan.chosen != make_plan("sentiment", reviews, max_examples=100, seed=seed + 1).chosen


@pytest.mark.parametrize("number", [150, 151, None])
def test_all_rows_are_taken_where_there_are_no_more(reviews, number):
    plan = make_plan("sentiment", reviews, max_examples=number)
    assert (plan.chosen, plan.seed, plan.num_chosen) == (None, None, 150)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_examples": 0}, "max_examples out of range, got 0; expected a whole number from 1"),
        ({"seed": -1}, "seed out of range, got -1; expected a whole number from 0 to 2**63 - 1"),
        ({"src_lang": "en"}, "--from (in Python: src_lang=) cannot act with classification"),
        ({"tgt_lang": "en"}, "--to (in Python: tgt_lang=) cannot act with classification"),
        ({"on": "translation", "labels": ["a", "b"]}, "--labels (in Python: labels=) cannot act with translation"),
    ],
)
def test_bad_call_is_refused_before_the_checkpoint_is_looked_for(reviews, options, sentence):
    with pytest.raises(InputError) as caught:
        llmkit.evaluate("no/such/checkpoint", **{"on": "sentiment", "data": reviews, **options})
    assert str(caught.value) == sentence


def test_empty_file_is_refused(tmp_path):
    data = write(tmp_path / "a.jsonl", [])
    with pytest.raises(InputError) as caught:
        make_plan("sentiment", data)
    assert str(caught.value) == f"0 examples in {data}"


def test_head_with_one_label_is_refused(tmp_path):
    from transformers import BertForSequenceClassification

    lm = make(BertForSequenceClassification, wordpiece_tokenizer(), "bert", **BERT, num_labels=1)
    data = write(tmp_path / "a.jsonl", [{"text": "hello", "label": 0}])
    with pytest.raises(InputError, match=r"^tiny has one label, LABEL_0; expected two or more for an accuracy$"):
        llmkit.evaluate(lm, on="classification", data=data)


def test_labels_are_kept_row_by_row(classifier, reviews):
    result = llmkit.evaluate(classifier, on="sentiment", data=reviews)
    rows = [json.loads(line) for line in reviews.read_text(encoding="utf-8").splitlines()]
    found = llmkit.classify_batch([row["text"] for row in rows], model=classifier)
    right = ["positive" if row["label"] == 1 else "negative" for row in rows]
    assert [row.where for row in result.rows] == [f"{reviews} row {i + 1}" for i in range(150)]
    assert [row.given["text"] for row in result.rows] == [row["text"] for row in rows]
    assert [row.expected for row in result.rows] == right
    assert [row.got for row in result.rows] == [one.label for one in found]
    scores = [one.scores[name] for one, name in zip(found, right, strict=True)]
    assert [row.scores["score"] for row in result.rows] == pytest.approx(scores, abs=1e-5)
    pairs = list(zip(right, [one.label for one in found], strict=True))
    labels = ("negative", "positive")
    assert result.confusion.labels == labels
    assert result.confusion.counts == tuple(tuple(pairs.count((a, b)) for b in labels) for a in labels)


def test_intervals_hold_the_metrics_and_follow_the_seed(classifier, reviews):
    found = [llmkit.evaluate(classifier, on="sentiment", data=reviews, seed=seed) for seed in (0, 0, 1)]
    assert list(found[0].intervals) == ["accuracy", "f1_macro"]
    for name, (low, high) in found[0].intervals.items():
        assert low < found[0].metrics[name] < high
    assert found[0].intervals == found[1].intervals != found[2].intervals


def test_training_pays_for_no_intervals(classifier, reviews, monkeypatch):
    from llmkit.evaluation import resampling
    from llmkit.evaluation.evaluating import measure

    monkeypatch.setattr(resampling, "draw", lambda *_: pytest.fail("rows were drawn anew"))
    monkeypatch.setattr(metrics, "resample_translations", lambda *_, **__: pytest.fail("texts were drawn anew"))
    assert measure(make_plan("sentiment", reviews), classifier).intervals == {}


def test_answers_are_kept_row_by_row(extractor, tmp_path):
    rows, data = questions(tmp_path, unanswerable=True)
    result = llmkit.evaluate(extractor, on="question-answering", data=data)
    assert [row.given for row in result.rows] == [{k: row[k] for k in ("question", "context")} for row in rows]
    assert [row.expected for row in result.rows] == [tuple(row["answers"]) for row in rows]
    for row in result.rows:
        f1 = metrics.f1(row.got, row.expected, definition="squad-v2.0")
        exact = metrics.exact_match(row.got, row.expected, definition="squad-v2.0")
        assert row.scores == {"exact_match": 100 * exact, "f1": 100 * f1}
    for name, (low, high) in result.intervals.items():
        assert low <= result.metrics[name] <= high


def test_translations_are_kept_row_by_row(translator, tmp_path):
    rows = [{"source": a, "target": b} for a, b in zip(sentences(4, seed=2), sentences(4, seed=3), strict=True)]
    data = write(tmp_path / "a.jsonl", rows)
    result = llmkit.evaluate(translator, on="translation", data=data, src_lang="en", tgt_lang="de")
    found = llmkit.translate_batch([row["source"] for row in rows], model=translator, src_lang="en", tgt_lang="de")
    assert [(row.given["source"], row.expected) for row in result.rows] == [tuple(row.values()) for row in rows]
    assert [row.got for row in result.rows] == [one.text for one in found]
    assert sorted(result.intervals) == ["bleu", "chrf"]


def test_evaluation_shows_its_metrics_and_n():
    result = Evaluation("classification", {"accuracy": 0.5, "f1_macro": 1 / 3}, 12, 20, 0, 1.5)
    assert str(result) == "accuracy: 0.5000\nf1_macro: 0.3333\nn: 12"


@pytest.mark.real
def test_evaluate_answers_a_squad_question_with_a_real_model(smollm2, data):
    squad = data / "qa" / "squad_v1.1_dev.json"
    found = llmkit.evaluate(smollm2, on="question-answering", data=squad, max_examples=1)
    assert (found.n, found.num_rows, found.definition) == (1, 10570, "squad-v1.1")
    assert list(found.metrics) == ["exact_match", "f1"]
    assert 0 <= found.metrics["f1"] <= 100


ROWS = [{"text": "hello world", "label": 1}, {"text": "cold sea", "label": 0}, {"text": "a grey morning", "label": 1}]


@pytest.mark.parametrize("kind", [list, tuple, Dataset.from_list])
def test_rows_are_taken_as_objects_and_named_so(classifier, tmp_path, kind):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    found = llmkit.evaluate(classifier, on="sentiment", data=kind(ROWS))
    wanted = llmkit.evaluate(classifier, on="sentiment", data=path)
    assert (found.metrics, found.intervals, found.n) == (wanted.metrics, wanted.intervals, 3)
    assert (found.data, [row.where for row in found.rows][:2]) == (
        "the data set",
        [f"the data set row {i}" for i in (1, 2)],
    )
    drawn = llmkit.evaluate(classifier, on="sentiment", data=kind(ROWS), max_examples=2, seed=3)
    assert drawn.metrics == llmkit.evaluate(classifier, on="sentiment", data=path, max_examples=2, seed=3).metrics


def test_texts_as_objects_have_the_perplexity_of_their_file(loaded, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    metrics = [llmkit.evaluate(loaded("gpt2"), on="perplexity", data=data).metrics for data in (path, ROWS)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (3, "expected a data set or an iterable of mappings, got a number"),
        (["a"], "expected a data set or an iterable of mappings, got texts"),
        (iter(ROWS), "a list_iterator can be read once, a data set is read again"),
        ([{"t": "a", "label": 0}], "the data set row 1: column 'text' not in [t, label]"),
        ([], "0 examples in the data set"),
    ],
)
def test_objects_that_are_no_rows_are_refused(rows, sentence):
    with pytest.raises(InputError) as caught:
        llmkit.evaluate("no/such/checkpoint", on="sentiment", data=rows)
    assert str(caught.value) == sentence
    assert "data." not in (caught.value.hint or "")
