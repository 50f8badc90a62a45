"""The split of Tatoeba: no sentence that is held out was trained on, in either language, script or spelling."""

import json

import pytest

tatoeba = pytest.importorskip("benchmarks.tatoeba", reason="it needs the package opencc", exc_type=ImportError)

PAIRS = [
    ("Hi.", "嗨。"),
    ("Hi!", "你好。"),
    ("Hello.", "你好！"),
    ("Dragon.", "龍。"),
    ("A dragon", "龙"),
    ("Tea.", "茶。"),
    ("Rain.", "雨。"),
]


def test_pairs_that_share_a_side_stand_in_one_group():
    groups = {frozenset(group) for group in tatoeba.group_pairs(PAIRS)}
    assert groups == {frozenset(PAIRS[:3]), frozenset(PAIRS[3:5]), frozenset(PAIRS[5:6]), frozenset(PAIRS[6:])}


def test_order_of_groups_depends_on_their_sentences_alone():
    assert [set(group) for group in tatoeba.group_pairs(PAIRS)] == [
        set(group) for group in tatoeba.group_pairs(PAIRS[::-1])
    ]


def test_parts_share_no_sentence_and_lose_none(data, tmp_path):
    path = data / "translation" / "tatoeba_en_zh.tsv"
    tatoeba.main([str(path), "-o", str(tmp_path)])
    for direction in ("en-zh", "zh-en"):
        parts = {}
        for name in ("train", "dev", "test"):
            lines = (tmp_path / direction / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            parts[name] = [{tatoeba.find_key(row[side]) for row in rows} for side in ("source", "target")]
            assert len(rows) >= {"dev": 499, "test": 999}.get(name, 18_000)
        for side in (0, 1):
            assert not parts["test"][side] & (parts["train"][side] | parts["dev"][side])
            assert not parts["dev"][side] & parts["train"][side]
