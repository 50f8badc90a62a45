"""Cleaning: what each rule takes away and what it leaves, on whole texts, and in bounded time."""

import gzip
import json
import textwrap
import time

import pytest

from llmkit.data.cleaning import clean
from llmkit.recipe.schema import CleanSpec

MARKDOWN = CleanSpec(markdown=True)
CODE = CleanSpec(code=True)
URLS = CleanSpec(urls=True)
UNWRAP = CleanSpec(unwrap=True)
ALL = CleanSpec(markdown=True, code=True, urls=True, min_han_share=0.5)


def cleaned(text, spec):
    result, rule = clean(text, spec)
    assert (rule is None) == bool(result)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\ntext", "Title\n\ntext"),
        ("text\n### 标题 ###\ntext", "text\n\n标题\n\ntext"),
        ("##标题\n#标题\n#2 and #tag", "标题\n\n标题\n\n#2 and #tag"),
        ("# C#", "C#"),
        ("标题\n======\n\ntext\n---\nmore", "标题\n\ntext\n\nmore"),
        ("a\n\n***\n\nb\n\n* * *\n\n____", "a\n\nb"),
        ("**重点。**后，*重点*和__重点__、***都***", "重点。后，重点和重点、都"),
        ("**a *b* c** and ~~gone~~", "a b c and gone"),
        ("*a **b** c*", "a b c"),
        ("** loose ** x", "loose x"),
        ("snake_case_name, 2*3*4 and __init__", "snake_case_name, 2*3*4 and init"),
        ("a * b * c", "a * b * c"),
        (r"\*kept\* 1\. \\", r"*kept* 1. \\"[:-1]),
        ("[text](https://e.org/a_(b) 'title')。[再][1]，[三][]", "text。再，三"),
        ("![image](a.png) [![x](a.png)](b) ![y][2] z", "z"),
        ("看![图](a.png)。", "看。"),
        ("as [1][2] and [a] say[^3].\n\n[^3]: a note", "as [1][2] and [a] say.\n\na note"),
        ("<https://e.org/a> <me@e.org>", "https://e.org/a me@e.org"),
        ("text\n\n[1]: https://e.org/a b\n[#]: subject: (some thing)\n[a b]: <x> 'title'", "text"),
        ("[INFO]: a log line", "[INFO]: a log line"),
        ("> quote\n> more\n>> deeper", "quote\nmore\ndeeper"),
        ("- one\n* two\n  + three\n1. four\n- [x] done", "one\ntwo\nthree\n1. four\ndone"),
        ("-1 and *x", "-1 and *x"),
        ("| a | b |\n| --- | :-: |\n| 1 | 2 |\n\nx | y", "a b\n1 2\n\nx | y"),
        ("a | b\n--|--\n1 | 2\nafter", "a b\n1 2\nafter"),
        ("SCP（<ruby>安全复制<rt>Secure Copy</rt></ruby>）是", "SCP（安全复制）是"),
        (
            "a<br/>b <!-- no\n\nno --> <span class='x'>c</span> <用户名> <file> 1 < 2 > 0",
            "ab c <用户名> <file> 1 < 2 > 0",
        ),
        ("<script>no</script>yes &amp; &lt;a&gt;&nbsp;&#20013;", "yes & <a> 中"),
        ("never <!-- closed", "never <!-- closed"),
        ("---\ntitle: x\ntags: [a]\n---\ntext", "text"),
        ("---\ntext\n---\nmore", "text\n\nmore"),
        ("a\\\nb  \nc", "a\\\nb\nc"),
        ("use `**x**` or ``a`b`` [`c`][1]", "use **x** or a`b c"),
        (r"1\. Call `open()`, then `close()`.", "1. Call open(), then close()."),
        (r"价格是 5\*3，运行`甲`，再运行`乙`。", "价格是 5*3，运行甲，再运行乙。"),
        ("Use `a`, ![`logo`](l.png) `b` and `c`.", "Use a, b and c."),
        ("`<!--` a <!-- `b` --> `c` [`d`](`e`) `f`", "<!-- a c d f"),
        ("e.org/?a=1&sect=2&copy=3 &copy; &#x4e2d;", "e.org/?a=1&sect=2&copy=3 © 中"),
        ("text\n\n```python\n# no title\nx = a * b * c\n```\nmore", "text\n\n# no title\nx = a * b * c\n\nmore"),
        ("text\n\n    # code\n\tmore", "text\n\n    # code\n\tmore"),
        ("\xa0- item\xa0here\n\u3000\u3000段落", "item here\n段落"),
        ("a\r\n\r\n\r\n \r\nb\r\n", "a\n\nb"),
    ],
)
def test_clean_markdown_keeps_the_text_without_marks(text, expected):
    assert cleaned(text, MARKDOWN) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# a\n\n```sh\nb\n\nc\n```\n**d**", "# a\n\n**d**"),
        ("a\n~~~\nb\n```\n~~~\nc", "a\n\nc"),
        ("a\n````\n```\nb\n````\nc", "a\n\nc"),
        ("a\n```\nnever closed\n\nb", "a\nnever closed\n\nb"),
        ("1. a\n\n    ```\n    b\n    ```\n\n2. c", "1. a\n\n2. c"),
        ("> ```\n> b\n> ```\nc", "c"),
        ("a\n\n    code\n\n    code\n\nb", "a\n\nb"),
        ("- a\n\n    goes on\n\n    - b", "- a\n\n    goes on\n\n    - b"),
        ("a\n    goes on", "a\n    goes on"),
        ("用 `ls` 来看（`-l`）。 `x`，y", "用 `ls` 来看（`-l`）。 `x`，y"),
        ("``a`b`` c ` d", "``a`b`` c ` d"),
        ("a ` b\n\nc ` d", "a ` b\n\nc ` d"),
        ("```inline``` a", "```inline``` a"),
    ],
)
def test_clean_code_drops_blocks_alone(text, expected):
    assert cleaned(text, CODE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("见https://example.org/a。然后", "见。然后"),
        ("见 https://example.org/a?b=c&d=%20#e，然后 HTTP://E.ORG x", "见，然后 x"),
        ("see http://e.org/a_(b), then (http://e.org/x). End", "see, then. End"),
        ("（https://e.org）后 [a](http://e.org/x) <ftp://e.org/中文> www.e.org/x!", "后 [a]!"),
        ("name.www.e is kept, a://b too, https://", "name.www.e is kept, a://b too, https://"),
        ("https://e.org/人工智能", "人工智能"),
        ("code:\n\n    indented  two\n\nhttps://e.org\n\nb", "code:\n\n    indented  two\n\nb"),
    ],
)
def test_clean_urls_leaves_what_stands_around_them(text, expected):
    assert cleaned(text, URLS) == expected


def test_clean_min_han_share_drops_paragraphs_in_other_scripts():
    text = "人工智能 AI\n\nEnglish words 中\n\n1, 2 --- 3\n\n一二ab 12345 !!!\n\n一二三abcd"
    assert cleaned(text, CleanSpec(min_han_share=0.5)) == "人工智能 AI\n\n一二ab 12345 !!!"
    assert cleaned(text, CleanSpec(min_han_share=0.0)) == text.replace("1, 2 --- 3\n\n", "")
    assert cleaned("𠀀㐀々〇\n\nかな", CleanSpec(min_han_share=1.0)) == "𠀀㐀々〇"


ENGLISH = [
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light.",
    "There were a king with a large jaw and a queen with a plain face, on the throne of England; there were a king "
    "with a large jaw and a queen with a fair face, on the throne of France.",
    "In both countries it was clearer than crystal.",
    "Mr. Cruncher, sitting on his well-worn stool, looked about the dimly lit street and thought of nothing but of "
    "supper, as old men of five-and-sixty do.",
]
CHINESE = [
    "他说：“你好，世界！”于是大家都笑了起来，天空中没有一丝云彩，远处的山峦清晰可见，孩子们在草地上奔跑着，笑声传得很远。",
    "没有人知道人工智能的未来是什么。“也许，”老人慢慢地说，“我们应该先问一问自己，到底想要一个怎样的未来。”",
]


def wrap_at(paragraph, width):
    """Wrap Chinese, which has no spaces to wrap at."""
    return "\n".join(paragraph[i : i + width] for i in range(0, len(paragraph), width))


@pytest.mark.parametrize("between", ["\n\n", "\n"], ids=["blank line", "line break"])
@pytest.mark.parametrize("width", [40, 70, 100])
def test_clean_unwrap_joins_wrapped_english_exactly(width, between):
    wrapped = between.join(textwrap.fill(paragraph, width) for paragraph in ENGLISH)
    assert max(map(len, wrapped.split("\n"))) <= width
    assert cleaned(wrapped, UNWRAP) == between.join(ENGLISH)


def test_clean_unwrap_joins_a_word_that_is_cut_at_a_dash():
    lines = ["He wore on that memorable evening a rather well-", "known coat, and said nothing of it, or of tea\u2014",
             "which was served at nine o'clock by the maid, he", "noticed."]  # fmt: skip
    whole = (
        "He wore on that memorable evening a rather well-known coat, and said nothing of it, or of tea\u2014which was "
    )
    assert cleaned("\n".join(lines), UNWRAP) == whole + "served at nine o'clock by the maid, he noticed."


@pytest.mark.parametrize("width", [30, 33, 40])
def test_clean_unwrap_joins_chinese_without_a_space(width):
    wrapped = "\n\n".join(wrap_at(paragraph, width) for paragraph in CHINESE)
    assert wrapped.count("\n") > 3
    assert cleaned(wrapped, UNWRAP) == "\n\n".join(CHINESE)


def test_clean_unwrap_puts_no_space_between_two_marks_of_chinese():
    first, second = "天" * 38 + "他说：", "“你好”" + "，他又说" * 8
    assert len(first) == 41
    assert cleaned(f"{first}\n{second}，", UNWRAP) == f"{first}{second}，"


def test_clean_unwrap_puts_a_space_between_english_words_beside_chinese():
    text = wrap_at(CHINESE[0], 40) + "\nwritten with the tokenizer of the library and\nwith transformers"
    assert cleaned(text, UNWRAP).endswith("tokenizer of the library and with transformers")


def test_clean_unwrap_keeps_the_lines_of_verse_and_of_lists_in_a_wrapped_text():
    verse = "人生若只如初见\n何事秋风悲画扇\n\n1. one thing\n2. another thing"
    wrapped = "\n\n".join([textwrap.fill(ENGLISH[0], 70), verse, textwrap.fill(ENGLISH[1], 70)])
    assert cleaned(wrapped, UNWRAP) == "\n\n".join([ENGLISH[0], verse, ENGLISH[1]])


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(ENGLISH),
        "\n\n".join(p * 3 for p in CHINESE),
        "eggs\nmilk\na loaf of bread",
        "鸡蛋\n牛奶\n\n一块面包",
        "one line alone of some forty characters..",
        "".join(CHINESE)[:60],
    ],
    ids=["long lines", "long Chinese lines", "short list", "short Chinese list", "one line", "one Chinese line"],
)
def test_clean_unwrap_leaves_a_text_that_is_not_wrapped(text):
    assert clean(text, UNWRAP) == (text, None)


def test_clean_unwrap_keeps_white_space_within_lines_alone():
    assert cleaned("\u3000\u3000一 二\n   three  four \t\n\nfive", UNWRAP) == "一 二\nthree  four\n\nfive"
    assert cleaned("\n \n\n x", UNWRAP) == "x"


def test_clean_unwrap_reads_line_ends_of_windows():
    wrapped = "\n\n".join(textwrap.fill(paragraph, 70) for paragraph in ENGLISH).replace("\n", "\r\n")
    assert cleaned(wrapped, UNWRAP) == "\n\n".join(ENGLISH)


def test_clean_unwrap_changes_nothing_when_it_unwraps_again():
    wrapped = "\n\n".join(textwrap.fill(paragraph, 70) for paragraph in ENGLISH)
    assert cleaned(cleaned(wrapped, UNWRAP), UNWRAP) == cleaned(wrapped, UNWRAP)


def test_clean_min_paragraph_chars_drops_shorter_paragraphs():
    text = "第一章\n\n人工智能的未来是什么\n\nas follows:\n\n一二三四五六七八九\n\n两行\n的一个小段落。"
    left = "人工智能的未来是什么\n\nas follows:\n\n两行\n的一个小段落。"
    assert cleaned(text, CleanSpec(min_paragraph_chars=10)) == left
    assert cleaned(text, CleanSpec(min_paragraph_chars=1)) == text


def test_clean_min_paragraph_chars_counts_what_the_other_rules_leave():
    text = "**标题** https://e.org/a/long/address\n\n" + textwrap.fill(ENGLISH[3], 50)
    spec = CleanSpec(markdown=True, urls=True, unwrap=True, min_paragraph_chars=60)
    assert cleaned(text, spec) == ENGLISH[3]


@pytest.mark.parametrize(
    ("text", "spec", "rule"),
    [
        ("![a](b)\n\n---", MARKDOWN, "markdown"),
        ("```\na\n```", CODE, "code"),
        ("```\na\n```", ALL, "markdown"),
        ("https://e.org www.e.org", URLS, "urls"),
        ("English", ALL, "min_han_share"),
        ("一二三", CleanSpec(min_paragraph_chars=4), "min_paragraph_chars"),
        ("English", CleanSpec(min_han_share=0.5, min_paragraph_chars=99), "min_han_share"),
    ],
)
def test_clean_names_the_rule_that_emptied_a_text(text, spec, rule):
    assert clean(text, spec) == ("", rule)


def test_clean_takes_all_rules_together():
    text = (
        "[#]: via: (https://e.org/a)\n\n如何使用 SCP\n======\n\n> **SCP** 是[命令][1]，见 https://e.org/b 。\n\n"
        "```\nscp a b\n```\n\n--------\n\nvia: https://e.org/a\n\n作者：[Pradeep Kumar][a] 译者：[wxy](https://e.org)\n\n"
        "[a]: https://e.org\n[1]: https://e.org/c\n"
    )
    assert cleaned(text, ALL) == "如何使用 SCP\n\nSCP 是命令，见。"


@pytest.mark.parametrize("spec", [MARKDOWN, CODE, URLS, ALL], ids=["markdown", "code", "urls", "all"])
def test_clean_leaves_clean_chinese_prose_as_it_is(spec):
    text = "他说：“你好，世界！”（笑）\n\n2023 年 5 月，价格是 3.14 元……《书》、100% 与 A&B。\n第二行"
    assert clean(text, spec) == (text, None)


def test_clean_changes_nothing_when_it_cleans_again(data):
    with gzip.open(data / "lm/chinese_tech.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(300), file, strict=False)]
    left = [cleaned(text, ALL) for text in texts if clean(text, ALL)[0]]
    assert len(left) > 290
    joined = "\n\n".join(left)
    for mark in ("```", "](http", "![", "</", "\n#[", "\n\n\n", "\x01", "\x02", " \n", "\n|", "&nbsp;"):
        assert mark not in joined
    changed = sum(clean(text, ALL)[0] != text for text in left)
    assert changed < len(left) * 0.1


PIECES = [
    "[", "![", "[](", "[a](", "[a][", "[[a]", "[^a", "[a]: (", "[a]: \"", "*", "*a ", "_a*", "**a ", "~~a",
    "`", "`a``b```c", "<", "<a ", "<a\n", "<rt>", "<!--", "<http://", "a@", "http://a.", "http://a)", "www.",
    "(http://a", "（", "( ", "|a", "- ", "> ", "# ", "=\n", "---\n", "a: b\n", "| a |\n|-|\n", "    a\n",
    "```\n", "```a\n", "~~~a\n```b\n", "> ```\n", "\n", " \n", " ", "\\", "&amp", "中*", "\t", "1. ",
]  # fmt: skip


@pytest.mark.parametrize("spec", [MARKDOWN, CODE, UNWRAP, ALL], ids=["markdown", "code", "unwrap", "all"])
def test_clean_takes_time_in_proportion_to_the_text(spec):
    def seconds(text):
        started = time.process_time()
        clean(text, spec)
        return time.process_time() - started

    fences = "".join("`" * n + "x\n" for n in range(300, 2, -1)) + "".join("`" * n for n in range(1, 300))
    texts = [piece * (50_000 // len(piece)) for piece in PIECES] + [
        fences,
        "# a" + " " * 10**5 + "b",
        "a line of words of forty characters, or so\n" * 50 + "x" * 10**5,
        "http://" + ")" * 10**5,
    ]
    slowest = max((seconds(text), text[:10]) for text in texts)
    assert slowest[0] < 3, slowest[1]  # a quadratic pattern takes minutes, a linear one 0.5 s at most


def test_clean_unwrap_keeps_a_break_before_a_word_that_would_have_fitted():
    full = "a" * 40
    fits, does_not = f"{'b' * 34}\n{'c' * 5} end", f"{'b' * 35}\n{'c' * 5} end"  # 34 + a space + 5 are 40
    text = "\n\n".join([full, fits, does_not])
    assert clean(text, CleanSpec(unwrap=True))[0] == "\n\n".join([full, fits, does_not.replace("\n", " ")])


def test_clean_unwrap_leaves_short_lines_alone():
    text = "\n".join(["milk and bread", "two of the red", "one for mother"] * 8)
    assert clean(text, CleanSpec(unwrap=True)) == (text, None)
