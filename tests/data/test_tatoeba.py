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
    whole = {"train": 18_000, "dev": 499, "test": 999}
    least = {"en-zh": whole, "zh-en": whole, "en-hant": {"train": 9_000, "dev": 250, "test": 500}}
    for direction, sizes in least.items():
        parts = {}
        for name, size in sizes.items():
            lines = (tmp_path / direction / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            parts[name] = [{tatoeba.find_key(row[side]) for row in rows} for side in ("source", "target")]
            assert len(rows) >= size
            if direction == "en-hant":
                assert all(tatoeba.SIMPLIFY.convert(row["target"]) != row["target"] for row in rows)
        for side in (0, 1):
            assert not parts["test"][side] & (parts["train"][side] | parts["dev"][side])
            assert not parts["dev"][side] & parts["train"][side]
