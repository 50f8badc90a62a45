"""The calls that are compared with transformers 4.57.6: (name, checkpoint, task, settings, inputs, call's settings)."""

from compat_checkpoints import CHINESE, EMOJI, ENGLISH, SOURCES

QUESTIONS = {
    "en": "Who built the lighthouse in 1847?",
    "zh": "西湖在哪里？",
    "emoji": "What did the team 👩‍👩‍👧 eat ☕?",
}
TEXTS = {"en": ENGLISH, "zh": CHINESE, "emoji": EMOJI}


def context(language, count):
    """A text of numbered paragraphs, none like another."""
    return " ".join(f"{i * i}. {TEXTS[language]}" for i in range(1, count + 1))


def asked(language, count):
    return {"question": QUESTIONS[language], "context": context(language, count)}


SETTINGS = {
    "one": {},
    "three": {"top_k": 3},
    "impossible": {"top_k": 4, "handle_impossible_answer": True},
    "short": {"max_answer_len": 2, "top_k": 2},
    "tokens": {"align_to_words": False, "top_k": 3},
    "windows": {"max_seq_len": 100, "doc_stride": 30, "top_k": 2},
}
NUMBERS = {"bert": {"en": (1, 9, 30), "zh": (1, 7, 26), "emoji": (1, 9, 22)}}
NUMBERS["roberta"] = NUMBERS["gpt2"] = {"en": (1, 2, 9), "zh": (1, 3, 7), "emoji": (1, 3, 12)}

QA = [
    (f"{checkpoint} {language} {count} {name}", checkpoint, "question-answering", {}, asked(language, count), settings)
    for checkpoint, numbers in NUMBERS.items()
    for language, counts in numbers.items()
    for count in counts
    for name, settings in SETTINGS.items()
]
MIXED = [asked(language, count) for count, language in [(1, "zh"), (12, "en"), (3, "emoji"), (1, "en"), (8, "zh")]]
TINY = {"question": "who?", "context": "the lamp"}
QA += [
    ("list", "bert", "question-answering", {}, MIXED, {"top_k": 2}),
    ("list of one", "bert", "question-answering", {}, MIXED[:1], {}),
    ("list in batches", "bert", "question-answering", {"batch_size": 3}, MIXED, {"top_k": 2}),
    ("list in batches, roberta", "roberta", "question-answering", {}, MIXED, {"batch_size": 4, "top_k": 2}),
    ("few spans", "bert", "question-answering", {}, TINY, {"top_k": 9}),
    ("few spans, impossible", "bert", "question-answering", {}, TINY, {"top_k": 9, "handle_impossible_answer": True}),
    ("few spans, tokens", "bert", "question-answering", {}, TINY, {"top_k": 9, "align_to_words": False}),
    ("few spans, gpt2", "gpt2", "question-answering", {}, {"question": "who?", "context": "a b"}, {"top_k": 9}),
    ("one token", "bert", "question-answering", {}, {"question": "who?", "context": "lamp"}, {}),
    ("no token", "bert", "question-answering", {}, {"question": "who?", "context": " \n"}, {"top_k": 2}),
    ("no token, gpt2", "gpt2", "question-answering", {}, {"question": "who?", "context": " "}, {}),
    ("long question", "bert", "question-answering", {}, {"question": ENGLISH, "context": context("en", 9)}, {}),
    ("context first", "bert left", "question-answering", {}, asked("en", 9), {"top_k": 3}),
    (
        "context first, chinese",
        "bert left",
        "question-answering",
        {},
        asked("zh", 7),
        {"handle_impossible_answer": True},
    ),
    ("set beforehand", "bert", "question-answering", {"top_k": 3, "max_answer_len": 4}, asked("en", 1), {"top_k": 2}),
    ("old name", "bert", "question-answering", {}, asked("en", 1), {"topk": 2}),
    ("segments unnamed", "bert unnamed", "question-answering", {}, asked("en", 9), {"top_k": 3}),
]
QA += [
    (f"{checkpoint} {language}", checkpoint, "question-answering", {}, asked(language, count), {"top_k": 3})
    for checkpoint in ("bert named", "albert", "roberta named", "gpt2 named")
    for language, count in [("en", 9), ("zh", 4), ("emoji", 9)]
]

FEW = {"max_new_tokens": 12}
MBART = {"src_lang": "en_XX", "tgt_lang": "de_DE"}
SEQ2SEQ = [(f"marian {i}", "marian", "translation", {}, text, {}) for i, text in enumerate(SOURCES)] + [
    ("checkpoint of old", "marian old", "translation", {}, SOURCES[1], {}),
    ("greedy", "marian", "translation", {}, SOURCES[1], {"num_beams": 1}),
    ("two beams", "marian", "translation", {}, SOURCES[1], {"num_beams": 2}),
    ("several", "marian", "translation", {}, SOURCES[1], {"num_return_sequences": 3}),
    ("several, list", "marian", "translation", {}, SOURCES[:2], {"num_return_sequences": 2}),
    ("few tokens", "marian", "translation", {}, SOURCES[1], {"max_new_tokens": 7}),
    ("shorter", "marian", "translation", {}, SOURCES[1], {"max_length": 9}),
    ("set beforehand, few", "marian", "translation", {"max_new_tokens": 9}, SOURCES[1], {}),
    ("set beforehand, shorter", "marian", "translation", {"max_length": 8, "num_beams": 3}, SOURCES[1], {}),
    ("list of texts", "marian", "translation", {}, SOURCES, {}),
    ("list of one text", "marian", "translation", {}, SOURCES[:1], {}),
    ("texts in batches", "marian", "translation", {"batch_size": 3}, SOURCES, {}),
    ("ids", "marian", "translation", {}, SOURCES[1], {"return_tensors": True}),
    ("ids of a list", "marian", "translation", {}, SOURCES[:2], {"return_tensors": True, "return_text": True}),
    ("no text", "marian", "translation", {}, SOURCES[1], {"return_text": False}),
    ("empty", "marian", "translation", {}, "", {}),
    ("emoji", "marian", "translation", {}, EMOJI, {}),
    ("stop", "marian", "translation", {}, SOURCES[1], {"stop_sequence": "built", "min_length": 6}),
    ("spaces cleaned", "marian", "translation", {}, SOURCES[0], {"clean_up_tokenization_spaces": True}),
    ("named pair", "marian", "translation_en_to_de", {}, SOURCES[0], {}),
    ("ngrams", "marian", "text2text-generation", {}, SOURCES[1], {"no_repeat_ngram_size": 1, "length_penalty": 0.5}),
    ("t5 pair", "t5", "translation_en_to_de", {}, SOURCES[0], {"max_length": 40}),
    ("t5 other pair", "t5", "translation_en_to_fr", {}, SOURCES[0], FEW),
    ("t5 translation", "t5", "translation", {}, SOURCES[2], FEW),
    ("t5 summary", "t5", "summarization", {}, SOURCES[1], FEW),
    ("t5 text", "t5", "text2text-generation", {}, SOURCES[1], FEW),
    ("t5 texts", "t5", "text2text-generation", {}, SOURCES, {**FEW, "batch_size": 2}),
    ("t5 settings over the task's", "t5", "summarization", {"num_beams": 2}, SOURCES[1], FEW),
    ("bart summary", "bart", "summarization", {}, ENGLISH, {"max_new_tokens": 20}),
    ("bart minimum", "bart", "summarization", {}, ENGLISH, {"max_new_tokens": 20, "min_length": 15}),
    ("bart truncated", "bart", "summarization", {}, context("en", 4), {**FEW, "truncation": True}),
    ("bart truncated by name", "bart", "text2text-generation", {}, ENGLISH, {**FEW, "truncation": "longest_first"}),
    ("mbart", "mbart", "translation", {}, SOURCES[0], MBART),
    ("mbart to french", "mbart", "translation", MBART, SOURCES[1], {**MBART, "tgt_lang": "fr_XX"}),
    ("mbart from chinese", "mbart", "translation", {}, SOURCES[2], {"src_lang": "zh_CN", "tgt_lang": "en_XX"}),
    ("mbart set beforehand", "mbart", "translation", MBART, SOURCES, {"batch_size": 2}),
    ("mbart text", "mbart", "text2text-generation", {}, SOURCES[0], {}),
]
CASES = QA + SEQ2SEQ


def plain(value):
    """A result as JSON holds it; ids of a tensor as a list."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
