import copy
import dataclasses
import itertools

import pytest
import small_translators
import torch
from transformers import GenerationConfig

import llmkit
from llmkit import InputError, Loaded, load, translate, translate_batch
from llmkit.encoding import prompts
from llmkit.runtime import quiet
from llmkit.sentences import SPLITS, split
from llmkit.tasks import translation
from llmkit.tasks.prompting import Prompter
from llmkit.tasks.searching import Draft, Searcher, bound_of
from llmkit.tasks.translation import Job, prepare

ENGLISH = "Good morning. How are you today?\n\n  In 1984 there were 12 dogs! Ok."
CHINESE = "　　今天天气很好。他说：“你好，世界！”\n人工智能的未来是什么？"
TEXTS = [ENGLISH, CHINESE, "Lily.", ""]
# kind -> the languages of a call
LANGUAGES = {
    "marian": {},
    "m2m100": {"src_lang": "en", "tgt_lang": "zh"},
    "nllb": {"src_lang": "en", "tgt_lang": "fr"},
    "mbart": {"src_lang": "en", "tgt_lang": "zh"},
    "mbart50": {"src_lang": "en", "tgt_lang": "de"},
    "t5": {"src_lang": "en", "tgt_lang": "de"},
    "bart": {},
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function that loads a tiny checkpoint of a kind, once."""
    kept = {}

    def get(kind, limit=14, **options):
        key = (kind, limit, repr(options))
        if key not in kept:
            folder = tmp_path_factory.mktemp(kind)
            small_translators.save(kind, folder, stated={"max_length": limit} if limit else {}, **options)
            kept[key] = load(folder, device="cpu")
        return kept[key]

    return get


def alone(lm, text, direction, num_beams, bound=None):
    """What transformers makes of one sentence, alone in its batch."""
    ids = torch.tensor([direction.encode(lm.tokenizer, text)])
    given = {} if direction.first_id is None else {"forced_bos_token_id": direction.first_id}
    if bound is not None:
        given["max_new_tokens"] = bound
    with quiet():
        made = lm.model.generate(input_ids=ids, num_beams=num_beams, do_sample=False, **given)[0, 1:].tolist()
    made = made[1:] if direction.first_id is not None and made[0] == direction.first_id else made
    return lm.tokenizer.decode(made, skip_special_tokens=True)


def on_one_line(text):
    return " ".join(text.split()) if SPLITS.search(text) else text.strip()


# --- what model.generate does


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", LANGUAGES)
def test_translate_equals_generate_on_each_sentence_alone(tiny, kind, num_beams):
    lm, asked = tiny(kind), LANGUAGES[kind]
    job = prepare(lm, num_beams=num_beams, **asked)
    sources = [text[slice(*span)] for text in TEXTS for span in split(text)]
    expected = [alone(lm, source, job.direction, num_beams) for source in sources]
    assert len(set(expected)) > 2
    assert [draft.text for draft in job.engine.run([job.engine.encode(source) for source in sources])] == expected
    results = translate_batch(TEXTS, model=lm, num_beams=num_beams, **asked)
    assert [r.num_windows for r in results] == [4, 3, 1, 0]
    made = iter(map(on_one_line, expected))
    for text, result in zip(TEXTS, results, strict=True):
        at = 0
        for part in [next(made) for _ in split(text)]:
            at = result.text.index(part, at) + len(part)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", ["t5", "marian"])
def test_translate_bounds_each_sentence_by_its_own_tokens(tiny, kind, num_beams):
    lm = tiny(kind, limit=None)  # marian forces an end at the bound
    job = prepare(lm, num_beams=num_beams)
    sources = ["Lily", "dog"]
    rows = [job.engine.encode(source) for source in sources]
    bounds = [2 * len(row) + 32 for row in rows]
    expected = [alone(lm, s, job.direction, num_beams, bound) for s, bound in zip(sources, bounds, strict=True)]
    drafts = job.engine.run(rows)
    assert [draft.text for draft in drafts] == expected
    assert any(draft.reached_bound for draft in drafts)


def test_translate_takes_the_checkpoints_beams(tiny):
    lm = tiny("mbart")
    lm = Loaded(copy.deepcopy(lm.model), lm.tokenizer)
    lm.model.generation_config.num_beams = 3
    with_beams = prepare(lm, **LANGUAGES["mbart"])
    assert (with_beams.engine.num_beams, with_beams.engine.config.do_sample) == (3, False)
    assert prepare(lm, num_beams=2, **LANGUAGES["mbart"]).engine.num_beams == 2


def test_translate_never_draws(tiny):
    lm = tiny("mbart")
    lm = Loaded(copy.deepcopy(lm.model), lm.tokenizer)
    lm.model.generation_config.update(do_sample=True, temperature=5.0)
    texts = {translate("How are you?", model=lm, num_beams=1, **LANGUAGES["mbart"]).text for _ in range(3)}
    assert len(texts) == 1
    with pytest.raises(InputError, match=r"^translation never draws and gives one text, got a config with do_sample"):
        translate("How?", model=lm, config=GenerationConfig(do_sample=True), **LANGUAGES["mbart"])


def test_translate_takes_what_t5_states_for_a_pair(tiny):
    stated = {"translation_en_to_de": {"prefix": "translate: ", "num_beams": 2, "max_length": 9}}
    lm = tiny("t5", config={"task_specific_params": stated})
    job = prepare(lm)
    assert (job.engine.num_beams, job.engine._bound(100, job.engine.config)) == (2, 8)
    assert job.engine.encode("Lily.") == lm.tokenizer("translate: Lily.")["input_ids"]
    assert prepare(lm, max_new_tokens=5).engine._bound(100, job.engine.config) == 8
    given = prepare(lm, max_new_tokens=5, num_beams=1).engine
    assert (given.num_beams, given._bound(100, given.config)) == (1, 5)


def test_translate_takes_a_config_alone(tiny):
    lm = tiny("t5")
    config = GenerationConfig(num_beams=2, max_new_tokens=4)
    before = config.to_dict()
    job = prepare(lm, config=config)
    assert (job.engine.num_beams, job.engine._bound(50, job.engine.config), job.tries_again) == (2, 4, False)
    assert config.to_dict() == before
    with pytest.raises(InputError, match=r"^config is used alone, got num_beams beside it$"):
        prepare(lm, config=config, num_beams=2)


def test_translate_leaves_model_and_tokenizer_as_they_were(tiny):
    lm = tiny("nllb")
    before = (lm.model.generation_config.to_dict(), lm.tokenizer.src_lang, lm.tokenizer("a")["input_ids"])
    translate("Good morning.", model=lm, **LANGUAGES["nllb"])
    assert (lm.model.generation_config.to_dict(), lm.tokenizer.src_lang, lm.tokenizer("a")["input_ids"]) == before


def test_searcher_stays_within_the_decoders_positions(tiny):
    engine = prepare(tiny("marian", limit=None), num_beams=1).engine
    assert engine._bound(100, engine.config) == 127
    assert engine.longest == 128
    assert bound_of(10) == 52


def test_searcher_reads_as_much_as_the_training_did_else_as_the_tokenizer_states(tiny):
    lm = tiny("marian", limit=None)
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.model_max_length = 40
    for facts, longest in (({}, 40), ({"max_length": 90}, 90), ({"max_length": 500}, 128)):
        assert prepare(Loaded(lm.model, tokenizer, "m", facts)).engine.longest == longest


def test_searcher_needs_a_token_to_start_from(tiny):
    lm = tiny("t5")
    lm = Loaded(copy.deepcopy(lm.model), lm.tokenizer, "m")
    lm.model.generation_config.decoder_start_token_id = None
    with pytest.raises(InputError, match=r"^m states no decoder_start_token_id, with which a text begins$"):
        prepare(lm)


# --- the text as a whole, with an engine whose translations are known


@dataclasses.dataclass
class Echo:
    """Gives back each piece in capitals, its tokens its characters; `drafts` replaces some, by beams."""

    longest: int = 1000
    num_beams: int = 1
    tokens_at_once: int = 10_000
    drafts: dict = dataclasses.field(default_factory=dict)
    calls: list = dataclasses.field(default_factory=list)

    def encode(self, text):
        return [ord(c) for c in text]

    def fits(self, ids):
        return len(ids) <= self.longest

    def is_empty(self, ids):
        return ids == [ord("∅")] or not ids

    def run(self, rows, num_beams=None):
        texts = ["".join(map(chr, row)) for row in rows]
        self.calls.append((num_beams, texts))
        return [self.drafts.get((text, num_beams or 1), Draft(text.upper(), False)) for text in texts]


def job_with(source="en", target="de", tries_again=True, **echo):
    engine = Echo(**echo)
    return Job(translation.Direction(source, target, source, target), engine, tries_again), engine


def test_job_keeps_paragraphs_lines_and_indentation():
    job, engine = job_with()
    text = "one. Two here!\r\n\n  * three\n---\n\tfour  \n"
    assert job.run([text])[0] == llmkit.Translation(text.upper(), "en", "de", 4, ())
    assert engine.calls == [(None, ["one.", "Two here!", "* three", "four"])]


def test_job_joins_chinese_without_spaces_and_parts_english():
    to_chinese, _ = job_with("en", "zh")
    to_english, _ = job_with("zh", "en")
    assert to_chinese.run(["One. Two.\nThree."])[0].text == "ONE.TWO.\nTHREE."
    assert to_english.run(["你好。再见。\n好。"])[0].text == "你好。 再见。\n好。"


def test_job_cuts_a_sentence_that_is_too_long():
    job, engine = job_with(longest=12)
    result = job.run(["One two, three four five"])[0]
    assert (result.text, result.num_windows) == ("ONE TWO, THREE FOUR FIVE", 3)
    assert engine.calls == [(None, ["One two,", "three four", "five"])]


@pytest.mark.parametrize("text", ["", " \n ", "——\n……\n"])
def test_job_leaves_what_has_nothing_to_translate(text):
    job, engine = job_with()
    assert job.run([text]) == [llmkit.Translation(text, "en", "de", 0, ())]
    assert list(itertools.chain(*(texts for _, texts in engine.calls))) == []


def test_job_puts_a_translation_on_one_line():
    job, _ = job_with(drafts={("One.", 1): Draft(" Eins\nzwei\u2028drei. ", False)})
    assert job.run(["One. Two."])[0].text == "Eins zwei drei. TWO."


def test_job_keeps_a_piece_that_the_tokenizer_does_not_know_and_suspects_it(monkeypatch):
    job, engine = job_with()
    monkeypatch.setattr(engine, "is_empty", lambda ids: ids == [ord("x"), ord(".")])
    result = job.run(["One.\nx.\nTwo."])[0]
    assert (result.text, result.suspect) == ("ONE.\nx.\nTWO.", ((5, 7),))


BAD, GOOD = Draft("bad", True), Draft("besser", False)


def test_job_tries_again_with_beams_what_looks_wrong():
    job, engine = job_with(drafts={("Two.", 1): BAD, ("Two.", 4): GOOD})
    result = job.run(["One. Two. Three."])[0]
    assert (result.text, result.suspect) == ("ONE. besser THREE.", ())
    assert engine.calls == [(None, ["One.", "Two.", "Three."]), (4, ["Two."])]


def test_job_keeps_the_first_translation_and_suspects_it_where_beams_do_not_help():
    job, _ = job_with(drafts={("Two.", 1): BAD, ("Two.", 4): Draft("worse", True)})
    result = job.run(["One. Two. Three."])[0]
    assert (result.text, result.suspect) == ("ONE. bad THREE.", ((5, 9),))


@pytest.mark.parametrize("options", [{"tries_again": False}, {"num_beams": 5}])
def test_job_tries_once_where_beams_were_given_or_are_more(options):
    job, engine = job_with(drafts={("Two.", 1): BAD, ("Two.", 4): GOOD}, **options)
    assert job.run(["One. Two."])[0].suspect == ((5, 9),)
    assert len(engine.calls) == 1


def test_prepare_tries_again_unless_beams_are_given(tiny):
    lm = tiny("t5")
    assert [prepare(lm).tries_again, prepare(lm, num_beams=1).tries_again] == [True, False]


def test_job_gives_results_in_order_and_reads_no_further_than_a_few_batches():
    job, engine = job_with(tokens_at_once=40)
    read = []

    def texts():
        for i in range(200):
            read.append(i)
            yield f"text {i}. More of it."

    results = job.stream(texts())
    assert next(results).text == "TEXT 0. MORE OF IT."
    assert len(read) < 20
    assert [r.text for r in results] == [f"TEXT {i}. MORE OF IT." for i in range(1, 200)]
    assert max(len(made) for _, made in engine.calls) < 30


def test_job_tells_how_far_a_long_text_is():
    job, _ = job_with(tokens_at_once=40)
    text, told = "Hello there. " * 200, []
    next(job.stream([text], lambda done, total: told.append((done, total))))
    assert len(told) > 3
    assert told == sorted(told)
    assert all(total == len(text) and 0 < done <= total for done, total in told)


def test_searcher_gives_a_row_what_it_gets_alone_whatever_its_neighbours(tiny):
    for num_beams in (1, 3):
        engine = prepare(tiny("bart", limit=None), num_beams=num_beams).engine
        rows = [engine.encode(text) for text in ("Good", "dogs, 3.14", "Lily", "I")]
        assert engine.run(rows) == [engine.run([row])[0] for row in rows]


def test_searcher_plans_batches_within_batch_size(tiny, monkeypatch):
    lm, sizes = tiny("t5"), []
    search = Searcher._search
    monkeypatch.setattr(
        Searcher, "_search", lambda self, rows, *rest: sizes.append(len(rows)) or search(self, rows, *rest)
    )
    translate_batch(["Lily."] * 5, model=lm, batch_size=2, num_beams=1)
    assert sizes == [2, 2, 1]


def test_searcher_halves_its_batches_when_the_memory_is_full(tiny, monkeypatch, notes):
    lm = tiny("t5")
    engine = prepare(lm, num_beams=1).engine
    rows = [engine.encode(text) for text in ("Lily.", "How are you?", "dogs")]
    expected = engine.run(rows)
    search = Searcher._search

    def full(self, rows, *rest):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("full")
        return search(self, rows, *rest)

    monkeypatch.setattr(Searcher, "_search", full)
    assert engine.run(rows) == expected
    assert len([note for note in notes if note.startswith("the device's memory is full")]) == 1


# --- a causal language model


def test_translate_asks_a_causal_model_by_a_prompt(loaded):
    lm = loaded("llama", max_position_embeddings=128)
    result = translate("Hello.\nOk", model=lm, src_lang="en", tgt_lang="fr", num_beams=1)
    parts = []
    for text in ("Hello.", "Ok"):
        ids = prompts.encode_text(lm.tokenizer, f"English: {text}\nFrench:")
        size = len(ids) - len(prompts.encode_text(lm.tokenizer, "English: \nFrench:"))
        with quiet():
            made = lm.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=2 * size + 32, pad_token_id=0)
        text = lm.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).removesuffix("\ufffd")
        parts.append(text.split("\n")[0])
    assert [" ".join(p.split()) for p in result.text.split("\n")] == [" ".join(p.split()) for p in parts]
    assert (result.src_lang, result.tgt_lang, result.num_windows) == ("en", "fr", 2)


def test_translate_asks_a_chat_model_through_its_template(loaded):
    lm = loaded("gpt2")
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    engine = prepare(Loaded(lm.model, tokenizer), tgt_lang="zh", max_new_tokens=2).engine
    assert tokenizer.decode(engine.encode("Hi.")) == (
        "<Translate this text to Chinese. Answer with the translation alone.\n\nHi.>"
    )


def test_prompter_ends_a_translation_with_its_line(loaded):
    lm = loaded("gpt2")
    first, line = (lm.tokenizer(text)["input_ids"][0] for text in ("a", "\n"))
    bias = {(first,): 1e4, (first, line): 1e5}
    config = GenerationConfig(max_new_tokens=4, sequence_bias=bias)
    engine = prepare(lm, src_lang="en", tgt_lang="fr", config=config).engine
    assert engine.run([engine.encode("Hi.")]) == [Draft("a", False)]


def test_prompter_cuts_a_text_so_that_prompt_and_answer_fit(loaded):
    lm = loaded("llama", max_position_embeddings=128)
    engine = prepare(lm, src_lang="en", tgt_lang="fr").engine
    assert isinstance(engine, Prompter)
    text = "one two three four five six seven eight nine ten " * 20
    result = translate(text, model=lm, src_lang="en", tgt_lang="fr", num_beams=1)
    assert result.num_windows > 5


def test_prompter_needs_room_and_a_target(loaded):
    lm = loaded("gpt2")
    with pytest.raises(InputError, match=r"^the context of .* holds 64 tokens, the prompt has \d+; too few are left"):
        prepare(lm, src_lang="en", tgt_lang="fr", max_new_tokens=60)
    with pytest.raises(InputError, match=r"is asked by a prompt, got no target language; expected --to CODE"):
        prepare(lm)
    with pytest.raises(InputError, match=r"^unknown language, got 'qq'"):
        prepare(lm, tgt_lang="qq")


# --- what is refused


def test_translate_refuses_what_is_no_text(tiny):
    with pytest.raises(TypeError, match=r"^the text must be a str, got int$"):
        translate(3, model="no/such/checkpoint")
    with pytest.raises(TypeError, match=r"^text 1 must be a str, got NoneType$"):
        translate_batch(["a", None], model="no/such/checkpoint")
    with pytest.raises(TypeError, match=r"^texts must be a list of texts, got str$"):
        translate_batch("abc", model="no/such/checkpoint")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_beams": 0}, "num_beams out of range, got 0; expected a whole number from 1 to 1,000"),
        ({"max_new_tokens": 0}, "max_new_tokens out of range, got 0; expected a whole number from 1 to 1,000,000"),
        ({"batch_size": 0}, "batch_size out of range, got 0; expected a whole number from 1"),
        ({"src_lang": ""}, "src_lang must be a language code, got ''; expected one such as en or zh"),
        ({"tgt_lang": 3}, "tgt_lang must be a language code, got 3; expected one such as en or zh"),
    ],
)
def test_translate_checks_its_settings_before_loading(settings, sentence):
    with pytest.raises(InputError) as caught:
        translate("Hi.", model="no/such/checkpoint", **settings)
    assert str(caught.value) == sentence


def test_translate_needs_a_checkpoint_where_no_default_knows_the_pair():
    with pytest.raises(InputError, match=r"^translation needs a checkpoint, got none; expected -m CHECKPOINT"):
        translate("Hi.", src_lang="en", tgt_lang="tlh")


def test_translate_takes_any_text(tiny):
    lm = tiny("bart")
    for text in ("\ud800 a\x00b \udfff", "\u200d\u0301a", "a" * 3000, "😀\ud83d\ude00 x", "\ufeffa\x85b"):
        result = translate(text, model=lm, num_beams=1, max_new_tokens=2)
        assert result.num_windows >= 1


def test_load_names_the_extra_where_sentencepiece_is_missing(tmp_path, monkeypatch):
    import transformers

    small_translators.save("marian", tmp_path)

    def missing(*arguments, **options):
        raise ImportError("\nMarianTokenizer requires the SentencePiece library but it was not found")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(InputError, match=r"needs the package sentencepiece$") as caught:
        load(tmp_path, device="cpu")
    assert caught.value.hint == 'pip install "llmkit[translation]"'


# --- real data


def test_translate_reads_sentences_with_a_real_marian_tokenizer(data, tmp_path):
    from transformers import AutoTokenizer, MarianConfig, MarianMTModel

    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / "opus-mt-en-pt")
    pad = tokenizer.pad_token_id
    config = {**small_translators.SHAPE, "vocab_size": len(tokenizer), "pad_token_id": pad, "eos_token_id": 44670}
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(**config, decoder_start_token_id=pad, forced_eos_token_id=44670)).eval()
    model.generation_config.max_length = 10
    lines = (data / "translation" / "multi30k" / "val.en").read_text(encoding="utf-8").splitlines()[:6]
    lm = Loaded(model, tokenizer, "m")
    job = prepare(lm, src_lang="en", tgt_lang="pt", num_beams=2)
    results = job.run(lines)
    assert [r.text for r in results] == [on_one_line(alone(lm, line, job.direction, 2)) for line in lines]
    assert [len(r.suspect) for r in results] == [1] * 6  # each reaches the bound


@pytest.mark.real
def test_translate_by_a_prompt_with_a_real_model(smollm2):
    result = translate("Good morning.\n\nThank you very much.", model=smollm2, src_lang="en", tgt_lang="fr")
    first, blank, last = result.text.split("\n")
    assert (bool(first), blank, bool(last), result.num_windows) == (True, "", True, 2)
