from types import SimpleNamespace

import pytest
from small_translators import m2m100_tokenizer, marian_tokenizer, mbart50_tokenizer, mbart_tokenizer, nllb_tokenizer

from llmkit import InputError
from llmkit.encoding.directions import Direction, find_direction, token_codes

T5 = {
    "translation_en_to_de": {"prefix": "translate English to German: ", "num_beams": 4, "max_length": 300},
    "translation_en_to_fr": {"prefix": "translate English to French: ", "num_beams": 4, "max_length": 300},
    "summarization": {"prefix": "summarize: "},
}


def model(kind="bart", **config):
    return SimpleNamespace(config=SimpleNamespace(model_type=kind, **config))


def find(tokenizer, source=None, target=None, facts=None, of=None):
    return find_direction(of or model(), tokenizer, name="m", facts=facts or {}, src_lang=source, tgt_lang=target)


def refuse(*arguments, **options):
    with pytest.raises(InputError) as caught:
        find(*arguments, **options)
    return str(caught.value)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    kinds = {"m2m100": m2m100_tokenizer, "mbart": mbart_tokenizer, "mbart50": mbart50_tokenizer, "nllb": nllb_tokenizer}
    made = {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in kinds.items()}
    made["nllb-legacy"] = nllb_tokenizer(None, legacy_behaviour=True)
    return made


@pytest.mark.parametrize(
    ("kind", "source", "target"),
    [
        ("m2m100", "fr", "zh"),
        ("mbart", "fr_XX", "zh_CN"),
        ("mbart50", "fr_XX", "zh_CN"),
        ("nllb", "fra_Latn", "zho_Hans"),
        ("nllb-legacy", "fra_Latn", "zho_Hans"),
    ],
)
def test_find_direction_encodes_as_the_tokenizer_with_its_src_lang(tokenizers, kind, source, target):
    tokenizer = tokenizers[kind]
    before = tokenizer.src_lang
    direction = find(tokenizer, "fr", "zh")
    assert (direction.source, direction.target) == (source, target)
    assert (tokenizer.src_lang, tokenizer("a")["input_ids"]) == (
        before,
        find(tokenizer, before, "fr").encode(tokenizer, "a"),
    )
    tokenizer.src_lang = source
    try:
        expected = tokenizer("今天 Lily.")["input_ids"]
    finally:
        tokenizer.src_lang = before
    assert direction.encode(tokenizer, "今天 Lily.") == expected
    assert direction.first_id == token_codes(tokenizer)[target]
    assert direction.first_id != tokenizer.unk_token_id


def test_find_direction_restores_src_lang_after_an_error(tokenizers):
    tokenizer = tokenizers["nllb"]
    assert refuse(tokenizer, "qq", "zh").startswith(
        "unknown source language, got 'qq'; expected one of the 202 of m, such"
    )
    assert tokenizer.src_lang == "eng_Latn"


def test_find_direction_lists_the_nearest_where_a_language_is_unknown(tokenizers):
    assert "fra_Latn" in refuse(tokenizers["nllb"], "en", "frq_Latn")
    assert "fr_XX" in refuse(tokenizers["mbart50"], "en", "frq_XX")


def test_find_direction_needs_both_languages_where_many_are_known(tokenizers):
    assert refuse(tokenizers["m2m100"], "en") == (
        "m knows 100 languages, got no target language; expected --to CODE (in Python: tgt_lang=)"
    )
    assert refuse(tokenizers["m2m100"], None, "en") == (
        "m knows 100 languages, got no source language; expected --from CODE (in Python: src_lang=)"
    )


def test_find_direction_takes_the_pair_of_llmkit_json(tokenizers):
    direction = find(tokenizers["nllb"], facts={"languages": ["en", "zh"]})
    assert (direction.source, direction.target, direction.src_lang) == ("eng_Latn", "zho_Hans", None)
    plain = find(SimpleNamespace(), facts={"languages": "en-zh"})
    assert plain == Direction(source="en", target="zh")
    assert refuse(SimpleNamespace(), "en", "de", {"languages": ["en", "zh"]}) == (
        "m translates from en to zh, got en to de; expected that pair"
    )


def test_a_trained_checkpoint_is_told_the_languages_as_its_training_told_it(tokenizers, tmp_path):
    """Whether a call names them, names them in other codes, or leaves them to llmkit.json."""
    for name in ("many", "pair"):
        (tmp_path / name).mkdir()
    many = marian_tokenizer(tmp_path / "many", ("fra", "cmn_Hans"), source_lang="eng", target_lang="mul")
    kinds = {
        "t5": (SimpleNamespace(), model("t5")),
        "t5 with tasks": (SimpleNamespace(), model("t5", task_specific_params=T5)),
        "marian of many": (many, model("marian")),
        "marian of a pair": (marian_tokenizer(tmp_path / "pair", source_lang="en", target_lang="fr"), model("marian")),
        "nllb": (tokenizers["nllb"], model("m2m_100")),
        "none": (SimpleNamespace(), model()),
    }
    for tokenizer, of in kinds.values():
        training = find(tokenizer, "en", "fr", of=of)
        for asked in ((None, None), ("en", "fr"), ("eng", None), (None, "fra")):
            used = find(tokenizer, *asked, facts={"languages": ["en", "fr"]}, of=of)
            assert (used.text, used.ids, used.first_id) == (training.text, training.ids, training.first_id)
            assert (used.src_lang, used.tgt_lang) == asked
    assert find(*kinds["t5"][:1], facts={"languages": ["en", "fr"]}, of=model("t5")).text.startswith(
        "translate English"
    )
    assert find(many, facts={"languages": ["en", "fr"]}).text == ">>fra<< "


def test_find_direction_of_a_single_pair_marian(tmp_path):
    tokenizer = marian_tokenizer(tmp_path, source_lang="eng", target_lang="por")
    assert find(tokenizer) == Direction(source="eng", target="por")
    assert find(tokenizer, "en", "pt") == Direction("en", "pt", "eng", "por")
    assert refuse(tokenizer, "pt", "en") == "m translates from eng to por, got pt to en; expected that pair"


def test_find_direction_of_a_multilingual_marian(tmp_path):
    tokenizer = marian_tokenizer(tmp_path, ("fra", "cmn_Hans", "cmn_Hant"), source_lang="eng", target_lang="mul")
    direction = find(tokenizer, "en", "fr")
    assert direction == Direction("en", "fr", "eng", "fra", text=">>fra<< ")
    fra = tokenizer.convert_tokens_to_ids(">>fra<<")
    assert direction.encode(tokenizer, "Good")[0] == fra
    assert find(tokenizer, None, "zh-TW").text == ">>cmn_Hant<< "
    assert refuse(tokenizer, "en", "de").startswith(
        "unknown target language, got 'de'; expected one of the 3 of m, such"
    )
    assert refuse(tokenizer, "en").startswith("m knows 3 languages, got no target language")
    assert refuse(tokenizer, "de", "fr") == "m translates from eng to mul, got de to fr; expected that pair"


def test_find_direction_of_a_marian_with_one_target_in_two_forms(tmp_path):
    tokenizer = marian_tokenizer(tmp_path, ("por", "pob"), source_lang="en", target_lang="pt")
    assert [find(tokenizer, "en", code).text for code in (None, "pt", "por", "pob")] == ["", "", ">>por<< ", ">>pob<< "]


def test_find_direction_of_t5_takes_what_its_config_states():
    of = model("t5", task_specific_params=T5)
    direction = find(SimpleNamespace(), "eng", "fr", of=of)
    assert direction.text == "translate English to French: "
    assert direction.settings == {"num_beams": 4, "max_length": 300}
    assert (direction.src_lang, direction.source) == ("eng", "en")
    assert find(SimpleNamespace(), None, "de", of=of).text == "translate English to German: "
    assert find(SimpleNamespace(), "en", "ro", of=of).text == "translate English to Romanian: "
    assert refuse(SimpleNamespace(), of=of) == (
        "m translates several pairs (en to de, en to fr), got one language at most; expected both"
    )


def test_find_direction_of_t5_names_the_languages_where_its_config_states_none():
    assert find(SimpleNamespace(), "zh", "en", of=model("t5")).text == "translate Chinese to English: "
    assert find(SimpleNamespace(), of=model("t5")) == Direction()


def test_a_t5_that_was_trained_without_a_word_about_languages_is_used_so():
    untold = {"languages": None}
    found = find(SimpleNamespace(), "zh", "en", facts=untold, of=model("t5"))
    assert found == Direction("zh", "en", "zh", "en")
    assert find(SimpleNamespace(), facts=untold, of=model("t5", task_specific_params=T5)) == Direction()
    with pytest.raises(InputError, match=r"unknown language, got 'qqq'"):
        find(SimpleNamespace(), "qqq", "en", facts=untold, of=model("t5"))


def test_find_direction_records_languages_where_a_checkpoint_states_none():
    assert find(SimpleNamespace(), "en", "zh_TW") == Direction("en", "zh_TW", "en", "zh_TW")
    assert refuse(SimpleNamespace(), "en", "qq").startswith(
        "unknown language, got 'qq'; expected a code of ISO 639 such as"
    )
