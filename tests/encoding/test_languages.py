import pytest

from llmkit.encoding import languages
from llmkit.encoding.languages import LANGUAGES, Code, is_spaceless, match, means_same, name, nearest, parse, short

NLLB = [
    "eng_Latn",
    "fra_Latn",
    "zho_Hans",
    "zho_Hant",
    "arb_Arab",
    "srp_Cyrl",
    "nob_Latn",
    "nno_Latn",
    "pes_Arab",
    "azj_Latn",
]
MBART = ["en_XX", "fr_XX", "zh_CN", "pt_XX", "de_DE", "ar_AR"]
M2M100 = ["en", "fr", "zh", "no", "ns", "ar"]
MARIAN = [">>cmn<<", ">>cmn_Hans<<", ">>cmn_Hant<<", ">>yue<<", ">>fra<<", ">>fr_CA<<"]


def test_languages_are_the_183_of_iso_639_1_each_once():
    assert len(LANGUAGES) == 183
    assert len({long for long, _, _ in LANGUAGES.values()}) == 183
    assert all(
        len(short) == 2 and len(long) == 3 and len(script) == 4 for short, (long, script, _) in LANGUAGES.items()
    )
    assert LANGUAGES["zh"] == ("zho", "Hans", "Chinese")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("fr", Code("fra")),
        ("FR-ca", Code("fra", None, "CA")),
        ("fra_Latn", Code("fra", "Latn")),
        ("en_XX", Code("eng")),
        ("zh_TW", Code("zho", "Hant", "TW")),
        ("zh-Hant-HK", Code("zho", "Hant", "HK")),
        (">>cmn_Hans<<", Code("zho", "Hans")),
        ("ger", Code("deu")),
        ("iw", Code("heb")),
        ("ROMANCE", Code("romance")),
    ],
)
def test_parse_reads_the_forms_in_use(code, expected):
    assert parse(code) == expected


@pytest.mark.parametrize(
    ("asked", "known", "expected"),
    [
        ("fr", NLLB, "fra_Latn"),
        ("fra_Latn", NLLB, "fra_Latn"),
        ("zh", NLLB, "zho_Hans"),
        ("zh-TW", NLLB, "zho_Hant"),
        ("ar", NLLB, "arb_Arab"),
        ("no", NLLB, "nob_Latn"),
        ("nn", NLLB, "nno_Latn"),
        ("fa", NLLB, "pes_Arab"),
        ("az", NLLB, "azj_Latn"),
        ("sr_Latn", NLLB, None),
        ("de", NLLB, None),
        ("en", MBART, "en_XX"),
        ("en_XX", MBART, "en_XX"),
        ("zho_Hans", MBART, "zh_CN"),
        ("zh_Hant", MBART, None),
        ("pt-BR", MBART, "pt_XX"),
        ("zho_Hans", M2M100, "zh"),
        ("eng_Latn", M2M100, "en"),
        ("nb", M2M100, "no"),
        ("nso", M2M100, "ns"),
        ("zh", MARIAN, ">>cmn_Hans<<"),
        ("zh_Hant", MARIAN, ">>cmn_Hant<<"),
        ("yue", MARIAN, ">>yue<<"),
        ("fr", MARIAN, ">>fra<<"),
        ("fr_CA", MARIAN, ">>fr_CA<<"),
        ("xx", MARIAN, None),
        ("zh", ["zho_Hant"], "zho_Hant"),  # the only one that there is
    ],
)
def test_match_finds_the_code_of_a_checkpoint(asked, known, expected):
    assert match(asked, known) == expected


def test_means_same_takes_a_code_without_script_for_any():
    assert means_same("zh_Hant", "zh")
    assert means_same("eng", "en")
    assert not means_same("en", "de")


def test_nearest_lists_codes_even_where_none_is_near():
    assert nearest("fra_latin", NLLB)[0] == "fra_Latn"
    assert len(nearest("qqq", NLLB)) == 4


@pytest.mark.parametrize(
    ("code", "expected"),
    [("zho_Hans", "zh"), ("eng", "en"), ("en_XX", "en"), ("yue", "yue"), ("xyz", "xyz"), ("cmn", "zh")],
)
def test_short_gives_two_letters_where_there_are_such(code, expected):
    assert short(code) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [("de", "German"), ("zh", "Chinese"), ("zh_TW", "Traditional Chinese"), ("fra_Latn", "French"), ("xyz", "xyz")],
)
def test_name_is_english(code, expected):
    assert name(code) == expected


def test_name_pair_is_the_key_of_a_default():
    assert languages.name_pair("eng_Latn", "zho_Hans") == "en-zh"
    assert languages.name_pair("en", None) == ""
    assert languages.name_pair("zh-TW", "en") == "zh-en"
    for code in ("zh-TW", "zh_HK", "zho_Hant", "zh-Hant"):  # which no default writes
        assert languages.name_pair("en", code) == "en-zh_Hant"


def test_is_spaceless_of_chinese_and_japanese():
    assert [code for code in ("zh", "ja", "yue", "en", "ko", "th") if is_spaceless(code)] == ["zh", "ja", "yue"]
