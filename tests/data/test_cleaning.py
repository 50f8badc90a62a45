"""Cleaning: what each rule takes away and what it leaves, on whole texts, and in bounded time."""

import gzip
import json
import time

import pytest

from llmkit.data.cleaning import clean
from llmkit.recipe.schema import CleanSpec

MARKDOWN = CleanSpec(markdown=True)
CODE = CleanSpec(code=True)
URLS = CleanSpec(urls=True)
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


@pytest.mark.parametrize(
    ("text", "spec", "rule"),
    [
        ("![a](b)\n\n---", MARKDOWN, "markdown"),
        ("```\na\n```", CODE, "code"),
        ("```\na\n```", ALL, "markdown"),
        ("https://e.org www.e.org", URLS, "urls"),
        ("English", ALL, "min_han_share"),
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


@pytest.mark.parametrize("spec", [MARKDOWN, CODE, ALL], ids=["markdown", "code", "all"])
def test_clean_takes_time_in_proportion_to_the_text(spec):
    def seconds(text):
        started = time.process_time()
        clean(text, spec)
        return time.process_time() - started

    fences = "".join("`" * n + "x\n" for n in range(300, 2, -1)) + "".join("`" * n for n in range(1, 300))
    texts = [piece * (50_000 // len(piece)) for piece in PIECES] + [
        fences,
        "# a" + " " * 10**5 + "b",
        "http://" + ")" * 10**5,
    ]
    slowest = max((seconds(text), text[:10]) for text in texts)
    assert slowest[0] < 3, slowest[1]  # a quadratic pattern takes minutes, a linear one 0.5 s at most
