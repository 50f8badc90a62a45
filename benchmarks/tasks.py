"""The task verbs beside plain transformers: texts of mixed length, models of the usual shapes, random weights, float32.

Both ways run the same model object on the same texts and must give the same answers.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence

import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertTokenizer,
    MarianConfig,
    MarianMTModel,
    TextClassificationPipeline,
)

from benchmarks.pairing import compare, describe_processor
from llmkit import Loaded, answer, answer_batch, classify_batch, runtime, translate_batch

VOCABULARY = 30_522  # of BERT-base
SHORTEST, LONGEST = 5, 256  # words of a text
BATCH = 32  # rows of a batch where they stand as they come
TOLERANCE = 1e-5
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]


def main(arguments: list[str]) -> None:
    """Print a table of texts a second for each task."""
    tasks = {"classification": measure_classification, "translation": measure_translation}
    tasks["question-answering"] = measure_answering
    parser = argparse.ArgumentParser(prog="python -m benchmarks tasks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=list(tasks))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, BATCH], help="of the pipeline")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(f"{describe_processor()}; {given.threads} threads; torch {torch.__version__}; {given.pairs} pairs in turn")
    for name, measure in tasks.items():
        if given.only not in (None, name):
            continue
        if measure is measure_classification:
            measure_classification(given.texts, given.pairs, given.batch_sizes)
        else:
            measure(given.texts, given.pairs)


def measure_classification(count: int, pairs: int, batch_sizes: Sequence[int] = (1, BATCH)) -> None:
    """Label texts: classify_batch beside transformers' own pipeline."""
    texts, tokenizer = make_texts(count), make_tokenizer()
    model = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY)).eval()
    lm, pipe = Loaded(model, tokenizer), TextClassificationPipeline(model=model, tokenizer=tokenizer)
    ours = [result.score for result in classify_batch(texts, model=lm)]
    theirs = [found["score"] for found in pipe(texts, batch_size=1)]
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert difference <= TOLERANCE, f"the two ways gave other scores, by {difference:.1e}"
    print_head(f"classification, BERT-base shape, {describe(texts)}")
    for size in batch_sizes:
        print_row(
            f"text-classification pipeline, batch_size {size}",
            count,
            pairs,
            lambda: classify_batch(texts, model=lm),
            lambda size=size: pipe(texts, batch_size=size),  # type: ignore[misc]
        )


def measure_translation(count: int, pairs: int) -> None:
    """Translate sentences: translate_batch beside model.generate on the sentences as they come."""
    count = max(count // 8, 1)
    texts, tokenizer, new_tokens = make_texts(count, longest=64), make_tokenizer(), 32
    shape = {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    ids = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0, "forced_eos_token_id": None}
    model = MarianMTModel(MarianConfig(vocab_size=VOCABULARY, **shape, **heads, **ids)).eval()
    model.generation_config.forced_eos_token_id = None
    lm = Loaded(model, tokenizer)

    def ours() -> list[str]:
        found = translate_batch(texts, model=lm, num_beams=1, max_new_tokens=new_tokens)
        return [result.text for result in found]

    def theirs() -> list[str]:
        made: list[str] = []
        for first in range(0, count, BATCH):
            inputs = tokenizer(texts[first : first + BATCH], padding=True, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            with torch.inference_mode(), runtime.quiet():
                out = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=new_tokens)
            made += tokenizer.batch_decode(out, skip_special_tokens=True)
        return made

    same = sum(a == b for a, b in zip(ours(), theirs(), strict=True))
    assert same == count, f"the two ways gave other translations: {count - same} of {count}"
    print_head(f"translation, Marian shape (6 + 6 layers x 512), greedy, {new_tokens} new tokens, {describe(texts)}")
    print_row(f"model.generate, batches of {BATCH} as they come", count, pairs, ours, theirs)


def measure_answering(count: int, pairs: int) -> None:
    """Answer questions about long texts: windows in planned batches beside one window at a time."""
    count = max(count // 32, 1)
    contexts = make_texts(count, longest=1024)
    questions = make_texts(count, longest=12)
    lm = Loaded(BertForQuestionAnswering(BertConfig(vocab_size=VOCABULARY)).eval(), make_tokenizer())

    def ours() -> list[float]:
        return [result.score for result in answer_batch(questions, contexts=contexts, model=lm)]

    def one_by_one() -> list[float]:
        pairs_of_texts = zip(questions, contexts, strict=True)
        return [answer(q, context=c, model=lm, batch_size=1).score for q, c in pairs_of_texts]

    difference = max(abs(a - b) for a, b in zip(ours(), one_by_one(), strict=True))
    assert difference <= TOLERANCE, f"the two ways gave other scores, by {difference:.1e}"
    print_head(f"question answering, BERT-base shape, {describe(contexts)}")
    print_row("one window at a time", count, pairs, ours, one_by_one)


def make_texts(count: int, longest: int = LONGEST) -> list[str]:
    """Make texts of random words, their lengths even between the shortest and the longest."""
    rnd = random.Random(0)
    return [" ".join(rnd.choices(WORDS, k=rnd.randint(SHORTEST, longest))) for _ in range(count)]


def make_tokenizer() -> BertTokenizer:
    """Make a WordPiece tokenizer whose vocabulary holds half of the words whole, and the syllables of the others."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SYLLABLES, *(f"##{s}" for s in SYLLABLES), *WORDS[::2]]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


def describe(texts: Sequence[str]) -> str:
    """Say how many texts there are, and how long."""
    lengths = [text.count(" ") + 1 for text in texts]
    return f"{len(texts)} texts of {min(lengths)}-{max(lengths)} words"


def print_head(title: str) -> None:
    """Print the head of a table."""
    print(f"\n{title}\n| beside | llmkit, texts/s | theirs, texts/s | times as fast (interval) |\n|---|---|---|---|")


def print_row(name: str, count: int, pairs: int, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    """Time two ways in turn and print a row of the table."""
    result = compare(ours, theirs, pairs)
    low, high = result.interval
    rates = [count / statistics.median(seconds) for seconds in (result.a, result.b)]
    print(f"| {name} | {rates[0]:.2f} | {rates[1]:.2f} | {result.ratio:.2f} ({low:.2f}-{high:.2f}) |", flush=True)
