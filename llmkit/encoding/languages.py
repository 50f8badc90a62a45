"""Language codes: what ISO 639 calls a language, and which code of a checkpoint means it.

Source: ISO 639-1, 639-2/B and 639-3 (languages and macrolanguages), ISO 15924 (scripts), as of 2025.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

# ISO 639-1 -> ISO 639-3, the script that it is written in where a code names none, the English name
LANGUAGES: dict[str, tuple[str, str, str]] = {
    "aa": ("aar", "Latn", "Afar"),
    "ab": ("abk", "Cyrl", "Abkhazian"),
    "ae": ("ave", "Avst", "Avestan"),
    "af": ("afr", "Latn", "Afrikaans"),
    "ak": ("aka", "Latn", "Akan"),
    "am": ("amh", "Ethi", "Amharic"),
    "an": ("arg", "Latn", "Aragonese"),
    "ar": ("ara", "Arab", "Arabic"),
    "as": ("asm", "Beng", "Assamese"),
    "av": ("ava", "Cyrl", "Avaric"),
    "ay": ("aym", "Latn", "Aymara"),
    "az": ("aze", "Latn", "Azerbaijani"),
    "ba": ("bak", "Cyrl", "Bashkir"),
    "be": ("bel", "Cyrl", "Belarusian"),
    "bg": ("bul", "Cyrl", "Bulgarian"),
    "bi": ("bis", "Latn", "Bislama"),
    "bm": ("bam", "Latn", "Bambara"),
    "bn": ("ben", "Beng", "Bengali"),
    "bo": ("bod", "Tibt", "Tibetan"),
    "br": ("bre", "Latn", "Breton"),
    "bs": ("bos", "Latn", "Bosnian"),
    "ca": ("cat", "Latn", "Catalan"),
    "ce": ("che", "Cyrl", "Chechen"),
    "ch": ("cha", "Latn", "Chamorro"),
    "co": ("cos", "Latn", "Corsican"),
    "cr": ("cre", "Cans", "Cree"),
    "cs": ("ces", "Latn", "Czech"),
    "cu": ("chu", "Cyrl", "Church Slavic"),
    "cv": ("chv", "Cyrl", "Chuvash"),
    "cy": ("cym", "Latn", "Welsh"),
    "da": ("dan", "Latn", "Danish"),
    "de": ("deu", "Latn", "German"),
    "dv": ("div", "Thaa", "Dhivehi"),
    "dz": ("dzo", "Tibt", "Dzongkha"),
    "ee": ("ewe", "Latn", "Ewe"),
    "el": ("ell", "Grek", "Greek"),
    "en": ("eng", "Latn", "English"),
    "eo": ("epo", "Latn", "Esperanto"),
    "es": ("spa", "Latn", "Spanish"),
    "et": ("est", "Latn", "Estonian"),
    "eu": ("eus", "Latn", "Basque"),
    "fa": ("fas", "Arab", "Persian"),
    "ff": ("ful", "Latn", "Fulah"),
    "fi": ("fin", "Latn", "Finnish"),
    "fj": ("fij", "Latn", "Fijian"),
    "fo": ("fao", "Latn", "Faroese"),
    "fr": ("fra", "Latn", "French"),
    "fy": ("fry", "Latn", "Western Frisian"),
    "ga": ("gle", "Latn", "Irish"),
    "gd": ("gla", "Latn", "Scottish Gaelic"),
    "gl": ("glg", "Latn", "Galician"),
    "gn": ("grn", "Latn", "Guarani"),
    "gu": ("guj", "Gujr", "Gujarati"),
    "gv": ("glv", "Latn", "Manx"),
    "ha": ("hau", "Latn", "Hausa"),
    "he": ("heb", "Hebr", "Hebrew"),
    "hi": ("hin", "Deva", "Hindi"),
    "ho": ("hmo", "Latn", "Hiri Motu"),
    "hr": ("hrv", "Latn", "Croatian"),
    "ht": ("hat", "Latn", "Haitian Creole"),
    "hu": ("hun", "Latn", "Hungarian"),
    "hy": ("hye", "Armn", "Armenian"),
    "hz": ("her", "Latn", "Herero"),
    "ia": ("ina", "Latn", "Interlingua"),
    "id": ("ind", "Latn", "Indonesian"),
    "ie": ("ile", "Latn", "Interlingue"),
    "ig": ("ibo", "Latn", "Igbo"),
    "ii": ("iii", "Yiii", "Sichuan Yi"),
    "ik": ("ipk", "Latn", "Inupiaq"),
    "io": ("ido", "Latn", "Ido"),
    "is": ("isl", "Latn", "Icelandic"),
    "it": ("ita", "Latn", "Italian"),
    "iu": ("iku", "Cans", "Inuktitut"),
    "ja": ("jpn", "Jpan", "Japanese"),
    "jv": ("jav", "Latn", "Javanese"),
    "ka": ("kat", "Geor", "Georgian"),
    "kg": ("kon", "Latn", "Kongo"),
    "ki": ("kik", "Latn", "Kikuyu"),
    "kj": ("kua", "Latn", "Kuanyama"),
    "kk": ("kaz", "Cyrl", "Kazakh"),
    "kl": ("kal", "Latn", "Greenlandic"),
    "km": ("khm", "Khmr", "Khmer"),
    "kn": ("kan", "Knda", "Kannada"),
    "ko": ("kor", "Hang", "Korean"),
    "kr": ("kau", "Latn", "Kanuri"),
    "ks": ("kas", "Arab", "Kashmiri"),
    "ku": ("kur", "Latn", "Kurdish"),
    "kv": ("kom", "Cyrl", "Komi"),
    "kw": ("cor", "Latn", "Cornish"),
    "ky": ("kir", "Cyrl", "Kyrgyz"),
    "la": ("lat", "Latn", "Latin"),
    "lb": ("ltz", "Latn", "Luxembourgish"),
    "lg": ("lug", "Latn", "Ganda"),
    "li": ("lim", "Latn", "Limburgish"),
    "ln": ("lin", "Latn", "Lingala"),
    "lo": ("lao", "Laoo", "Lao"),
    "lt": ("lit", "Latn", "Lithuanian"),
    "lu": ("lub", "Latn", "Luba-Katanga"),
    "lv": ("lav", "Latn", "Latvian"),
    "mg": ("mlg", "Latn", "Malagasy"),
    "mh": ("mah", "Latn", "Marshallese"),
    "mi": ("mri", "Latn", "Maori"),
    "mk": ("mkd", "Cyrl", "Macedonian"),
    "ml": ("mal", "Mlym", "Malayalam"),
    "mn": ("mon", "Cyrl", "Mongolian"),
    "mr": ("mar", "Deva", "Marathi"),
    "ms": ("msa", "Latn", "Malay"),
    "mt": ("mlt", "Latn", "Maltese"),
    "my": ("mya", "Mymr", "Burmese"),
    "na": ("nau", "Latn", "Nauru"),
    "nb": ("nob", "Latn", "Norwegian Bokmål"),
    "nd": ("nde", "Latn", "North Ndebele"),
    "ne": ("nep", "Deva", "Nepali"),
    "ng": ("ndo", "Latn", "Ndonga"),
    "nl": ("nld", "Latn", "Dutch"),
    "nn": ("nno", "Latn", "Norwegian Nynorsk"),
    "no": ("nor", "Latn", "Norwegian"),
    "nr": ("nbl", "Latn", "South Ndebele"),
    "nv": ("nav", "Latn", "Navajo"),
    "ny": ("nya", "Latn", "Chichewa"),
    "oc": ("oci", "Latn", "Occitan"),
    "oj": ("oji", "Cans", "Ojibwe"),
    "om": ("orm", "Latn", "Oromo"),
    "or": ("ori", "Orya", "Odia"),
    "os": ("oss", "Cyrl", "Ossetian"),
    "pa": ("pan", "Guru", "Punjabi"),
    "pi": ("pli", "Deva", "Pali"),
    "pl": ("pol", "Latn", "Polish"),
    "ps": ("pus", "Arab", "Pashto"),
    "pt": ("por", "Latn", "Portuguese"),
    "qu": ("que", "Latn", "Quechua"),
    "rm": ("roh", "Latn", "Romansh"),
    "rn": ("run", "Latn", "Rundi"),
    "ro": ("ron", "Latn", "Romanian"),
    "ru": ("rus", "Cyrl", "Russian"),
    "rw": ("kin", "Latn", "Kinyarwanda"),
    "sa": ("san", "Deva", "Sanskrit"),
    "sc": ("srd", "Latn", "Sardinian"),
    "sd": ("snd", "Arab", "Sindhi"),
    "se": ("sme", "Latn", "Northern Sami"),
    "sg": ("sag", "Latn", "Sango"),
    "si": ("sin", "Sinh", "Sinhala"),
    "sk": ("slk", "Latn", "Slovak"),
    "sl": ("slv", "Latn", "Slovenian"),
    "sm": ("smo", "Latn", "Samoan"),
    "sn": ("sna", "Latn", "Shona"),
    "so": ("som", "Latn", "Somali"),
    "sq": ("sqi", "Latn", "Albanian"),
    "sr": ("srp", "Cyrl", "Serbian"),
    "ss": ("ssw", "Latn", "Swati"),
    "st": ("sot", "Latn", "Southern Sotho"),
    "su": ("sun", "Latn", "Sundanese"),
    "sv": ("swe", "Latn", "Swedish"),
    "sw": ("swa", "Latn", "Swahili"),
    "ta": ("tam", "Taml", "Tamil"),
    "te": ("tel", "Telu", "Telugu"),
    "tg": ("tgk", "Cyrl", "Tajik"),
    "th": ("tha", "Thai", "Thai"),
    "ti": ("tir", "Ethi", "Tigrinya"),
    "tk": ("tuk", "Latn", "Turkmen"),
    "tl": ("tgl", "Latn", "Tagalog"),
    "tn": ("tsn", "Latn", "Tswana"),
    "to": ("ton", "Latn", "Tongan"),
    "tr": ("tur", "Latn", "Turkish"),
    "ts": ("tso", "Latn", "Tsonga"),
    "tt": ("tat", "Cyrl", "Tatar"),
    "tw": ("twi", "Latn", "Twi"),
    "ty": ("tah", "Latn", "Tahitian"),
    "ug": ("uig", "Arab", "Uyghur"),
    "uk": ("ukr", "Cyrl", "Ukrainian"),
    "ur": ("urd", "Arab", "Urdu"),
    "uz": ("uzb", "Latn", "Uzbek"),
    "ve": ("ven", "Latn", "Venda"),
    "vi": ("vie", "Latn", "Vietnamese"),
    "vo": ("vol", "Latn", "Volapük"),
    "wa": ("wln", "Latn", "Walloon"),
    "wo": ("wol", "Latn", "Wolof"),
    "xh": ("xho", "Latn", "Xhosa"),
    "yi": ("yid", "Hebr", "Yiddish"),
    "yo": ("yor", "Latn", "Yoruba"),
    "za": ("zha", "Latn", "Zhuang"),
    "zh": ("zho", "Hans", "Chinese"),
    "zu": ("zul", "Latn", "Zulu"),
}
# Languages without a two-letter code that translation models know by name.
MORE: dict[str, tuple[str, str]] = {
    "ast": ("Latn", "Asturian"),
    "ceb": ("Latn", "Cebuano"),
    "ckb": ("Arab", "Central Kurdish"),
    "fur": ("Latn", "Friulian"),
    "ilo": ("Latn", "Iloko"),
    "lzh": ("Hant", "Literary Chinese"),
    "nso": ("Latn", "Northern Sotho"),
    "scn": ("Latn", "Sicilian"),
    "wuu": ("Hans", "Wu Chinese"),
    "yue": ("Hant", "Cantonese"),
}
# code used here -> those that mean it: a member that stands for its macrolanguage, the bibliographic code, an older one
SAME_AS = {
    "ara": "arb",
    "aym": "ayr",
    "aze": "azj",
    "bod": "tib",
    "ces": "cze",
    "cym": "wel",
    "deu": "ger",
    "ell": "gre",
    "est": "ekk",
    "eus": "baq",
    "fas": "per pes",
    "fra": "fre",
    "ful": "fuv",
    "grn": "gug",
    "heb": "iw",
    "hye": "arm",
    "iku": "ike",
    "ind": "in",
    "isl": "ice",
    "jav": "jw",
    "kat": "geo",
    "kau": "knc",
    "kur": "kmr",
    "lav": "lvs",
    "mkd": "mac",
    "mlg": "plt",
    "mon": "khk",
    "mri": "mao",
    "msa": "may zsm",
    "mya": "bur",
    "nep": "npi",
    "nld": "dut",
    "nor": "nob",
    "nso": "ns",
    "ori": "ory",
    "orm": "gaz",
    "pus": "pbt",
    "que": "quy",
    "ron": "rum",
    "slk": "slo",
    "sqi": "alb als",
    "swa": "swh",
    "tgl": "fil",
    "uzb": "uzn",
    "yid": "ydd",
    "zho": "chi cmn",
}
REGION_SCRIPTS = {"CN": "Hans", "SG": "Hans", "TW": "Hant", "HK": "Hant", "MO": "Hant"}
# Written without spaces between sentences.
SPACELESS = {"zho", "yue", "wuu", "lzh", "jpn"}

_SAME = {code: used for used, codes in SAME_AS.items() for code in codes.split()}
_BY_LONG = {long: (short, script, name) for short, (long, script, name) in LANGUAGES.items()} | {
    long: ("", script, name) for long, (script, name) in MORE.items()
}


@dataclass(frozen=True)
class Code:
    """Holds the parts of a language code: `zh_TW` is zho in Hant, `fra_Latn` is fra in Latn, `en_XX` is eng."""

    language: str
    script: str | None = None
    region: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the table here has the language."""
        return self.language in _BY_LONG


def parse(code: str) -> Code:
    """Read a code in any of the forms in use: `fr`, `fra`, `fr-CA`, `fra_Latn`, `zh_CN`, `en_XX`, `>>cmn_Hans<<`."""
    first, *others = re.split("[-_]+", code.strip("<>_ "))
    language = first.lower()
    language = LANGUAGES[language][0] if language in LANGUAGES else language
    script = region = None
    for part in others:
        if len(part) == 4 and part.isalpha():
            script = part.title()
        elif re.fullmatch("[A-Za-z]{2}|[0-9]{3}", part) and part.upper() != "XX":
            region = part.upper()
    language = _SAME.get(language, language)
    if script is None and language == "zho" and region is not None:
        script = REGION_SCRIPTS.get(region)
    return Code(language, script, region)


def match(asked: str, known: Iterable[str]) -> str | None:
    """Find the code of a checkpoint that means what was asked for; None where none does.

    The same language in the script that was asked for, or is the usual one; a code that names no script or region
    goes with any.
    """
    codes = list(known)
    wanted = parse(asked)
    usual = wanted.script or _BY_LONG.get(wanted.language, ("", None, ""))[1]
    best: tuple[tuple[bool, ...], str] | None = None
    for code in codes:
        if code.strip("<>_").casefold() == asked.strip("<>_").casefold():
            return code
        found = parse(code)
        if found.language != wanted.language or _differ(found.script, wanted.script):
            continue
        if found.script is None and _differ(found.region, wanted.region):
            continue
        rank = (found.script == usual, found.script is None, found.region == wanted.region)
        if best is None or rank > best[0]:
            best = (rank, code)
    return best[1] if best is not None else None


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def means_same(one: str, other: str) -> bool:
    """Tell whether two codes can mean the same language."""
    return match(one, [other]) is not None


def nearest(asked: str, known: Iterable[str], count: int = 4) -> list[str]:
    """List the codes that look most like one that is not known, the nearest first."""
    codes = {code.strip("<>"): code for code in known}
    return difflib.get_close_matches(asked, codes, n=count, cutoff=0.0)


def short(code: str) -> str:
    """Give the two letters of a code's language where it has such, else the three of ISO 639-3."""
    language = parse(code).language
    return _BY_LONG.get(language, ("", "", ""))[0] or language


def name_pair(source: str | None, target: str | None) -> str:
    """Name a pair of languages as a default checkpoint is looked up, such as en-zh; "" where one is missing.

    Traditional characters to write are named too, as no default writes them: en-zh_Hant.
    """
    if not source or not target:
        return ""
    return f"{short(source)}-{short(target)}" + ("_Hant" if parse(target).script == "Hant" else "")


def name(code: str) -> str:
    """Give the English name of a code's language, or the code itself where the table has none."""
    wanted = parse(code)
    if not wanted.is_known:
        return code
    kind = {"Hant": "Traditional ", "Hans": "Simplified "}.get(wanted.script or "", "")
    return (kind if wanted.language == "zho" else "") + _BY_LONG[wanted.language][2]


def is_spaceless(code: str) -> bool:
    """Tell whether a language puts no space between its sentences."""
    return parse(code).language in SPACELESS
