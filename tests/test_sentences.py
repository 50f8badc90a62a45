import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit import sentences
from llmkit.sentences import cut, join, split

ENGLISH = 'Dr. Smith came. "Go home!" he said.  Then?\n\n  New paragraph.\r\n\tLast… line 3.14 ok. He left 😀.\n'
CHINESE = "　　他说：“你好。再见！”然后走了……天气很好。\n\n---\n第二段！？好。\n"
MIXED = st.text(
    st.sampled_from("ab Z.!?。！？……“”「」，, \n\r\t\u3000\u2028\x85\x1c0١😀\u200d\u0301\ud83d\ude00-*"), max_size=80
)


def texts(text, language="en"):
    return [text[slice(*span)] for span in split(text, language)]


def test_split_finds_sentences_of_english_text():
    assert texts(ENGLISH) == [
        "Dr. Smith came.",
        '"Go home!" he said.',
        "Then?",
        "New paragraph.",
        "Last… line 3.14 ok.",
        "He left 😀.",
    ]


def test_split_finds_sentences_of_chinese_text():
    assert texts(CHINESE, "zh") == ["他说：“你好。再见！”", "然后走了……天气很好。", "第二段！？", "好。"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("小明问：『你是谁？』我回答：『我是小红。』", ["小明问：『你是谁？』", "我回答：『我是小红。』"]),
        ("他说【你好。】然后走了。", ["他说【你好。】", "然后走了。"]),
        ("见〈序。〉再见〔注！〕好。", ["见〈序。〉", "再见〔注！〕", "好。"]),
    ],
)
def test_split_leaves_a_closing_mark_with_its_sentence(text, expected):
    assert texts(text, "zh") == expected


@pytest.mark.parametrize("text", ["", " \n\t", "---\n***\n", "😀 …… 。"])
def test_split_finds_nothing_where_there_is_neither_letter_nor_digit(text):
    assert texts(text) == []


@settings(max_examples=300, deadline=None)
@given(st.one_of(MIXED, st.text(max_size=60)), st.sampled_from(["en", "zh", "fr", "xx"]))
def test_split_loses_nothing(text, language):
    spans, end = list(split(text, language)), 0
    for start, following in spans:
        assert end <= start < following
        assert not any(c.isalnum() for c in text[end:start])
        piece = text[start:following]
        assert piece == piece.strip()
        assert not sentences.SPLITS.search(piece)
        end = following
    assert not any(c.isalnum() for c in text[end:])
    parts = [text[slice(*span)] for span in spans]
    assert squeeze(join(text, spans, parts, spaced=True)) == squeeze(text)


def squeeze(text):
    return text.replace(" ", "")


@settings(max_examples=200, deadline=None)
@given(MIXED)
def test_join_puts_parts_where_pieces_were(text):
    spans = list(split(text))
    marked = join(text, spans, [f"<{i}>" for i in range(len(spans))], spaced=None)
    kept, end = [], 0
    for i, (start, following) in enumerate(spans):
        gap = text[end:start]
        kept += [gap if i == 0 or gap.strip(" ") else gap or None, f"<{i}>"]
        end = following
    at = 0
    for part in [*kept, text[end:]]:
        if part is None:  # a space may have been put
            at += marked[at : at + 1] == " "
            continue
        assert marked.startswith(part, at)
        at += len(part)
    assert at == len(marked)


def test_split_looks_at_long_lines_in_blocks():
    line = "他说你好。" * 2000 + "This is one sentence. " * 1000 + "a" * 5000
    found = texts(line, "zh")
    assert found[:1999] == ["他说你好。"] * 1999  # the last of them stands before a letter
    assert found.count("This is one sentence.") >= 998
    assert "".join(found).replace(" ", "") == line.replace(" ", "")
    assert max(map(len, found)) <= sentences.BLOCK


def test_split_reads_no_further_than_it_is_asked(monkeypatch):
    seen = []
    find = sentences._find_ends
    monkeypatch.setattr(
        sentences, "_find_ends", lambda block, language: seen.append(len(block)) or find(block, language)
    )
    next(split("Hello there. You.\n" * 1000))
    assert seen == [17]


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("One two, three four five", 12, ["One two,", "three four", "five"]),
        ("一二三四，五六七八九十", 8, ["一二三四，", "五六七八九十"]),
        ("aaaaaaaaaa", 4, ["aaaa", "aaaa", "aa"]),
        ("cost 1,000 dollars", 8, ["cost", "1,000", "dollars"]),
        ("short", 10, ["short"]),
        ("eeeee\u0301e", 5, ["eeee", "e\u0301e"]),
        ("aaa\ud83d\ude00a", 4, ["aaa", "\ud83d\ude00a"]),
    ],
)
def test_cut_goes_by_clauses_then_spaces_then_characters(text, most, expected):
    spans = cut(text, (0, len(text)), lambda piece: len(piece) <= most)
    assert [text[slice(*span)] for span in spans] == expected


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab ,.。，😀\u0301"), max_size=60), st.integers(1, 12))
def test_cut_loses_nothing_and_fits(text, most):
    spans = list(cut(text, (0, len(text)), lambda piece: len(piece) <= most))
    end = 0
    for start, following in spans:
        assert end <= start
        assert following - start <= most
        assert not any(c.isalnum() for c in text[end:start])
        end = following
    assert not any(c.isalnum() for c in text[end:])


@pytest.mark.parametrize(
    ("text", "language", "spaced", "expected"),
    [
        ("Hi. You.  Ok.\n  So.", "en", True, "A B  C\n  D"),
        ("Hi. You.  Ok.\n  So.", "en", False, "ABC\n  D"),
        ("你好。再见。\n　　好。", "zh", True, "A B\n　　C"),
        ("你好。再见。\n　　好。", "zh", False, "AB\n　　C"),
        ("Hi.\tYou.\n--\nOk.", "en", False, "A\tB\n--\nC"),
    ],
)
def test_join_keeps_lines_and_spaces_as_the_target_needs(text, language, spaced, expected):
    spans = list(split(text, language))
    assert join(text, spans, "ABCD"[: len(spans)], spaced=spaced) == expected


def test_join_goes_by_the_script_of_the_part_where_the_target_is_unknown():
    assert join("Hi. You. Ok.", [(0, 3), (4, 8), (9, 12)], ["好。", "Du.", "O"], spaced=None) == "好。Du. O"
    assert join("好。你。", [(0, 2), (2, 4)], ["Hi.", "You."], spaced=None) == "Hi. You."


def test_join_puts_no_space_where_a_word_was_cut():
    assert join("abcdef", [(0, 3), (3, 6)], ["xyz", "uvw"], spaced=True) == "xyzuvw"
