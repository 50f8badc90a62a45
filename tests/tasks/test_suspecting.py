import pytest

from llmkit.tasks.suspecting import find_faults, measure_repetition, weigh

SOURCE = "In 1984 the old captain looked at the grey sea and waited for the morning to come."


@pytest.mark.parametrize(
    ("source", "made"),
    [
        (SOURCE, "Im Jahr 1984 blickte der alte Kapitän auf das graue Meer und wartete auf den Morgen."),
        (SOURCE, "1984年，老船长望着灰色的大海，等待早晨的到来。"),
        ("Hi!", "Guten Morgen zusammen!"),
        ("It cost 1,000,000 yuan.", "花了100万元。"),
        ("It cost 12,340,000 yuan.", "花了1234万元。"),
        ("There were 25 of them.", "他们有二十五个人。"),
        ("On 2024-05-06 at 3.14.", "２０２４年０５月０６日，3,14。"),
        ("Ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha!", "Ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha!"),
        ("wait", "-------------------- ok 0000000000000000000"),
    ],
)
def test_find_faults_finds_none_in_a_good_translation(source, made):
    assert find_faults(source, made, reached_bound=False) == ()


@pytest.mark.parametrize(
    ("made", "reached", "expected"),
    [
        ("", False, ("empty",)),
        (" …", True, ("bound", "empty")),
        ("Im Jahr 1984 blickte der alte Kapitän auf das graue Meer und wartete", True, ("bound",)),
        ("1984", False, ("length",)),
        ("1984 " + "ein langer Satz ohne Ende und mit immer anderen Wörtern, " * 1 + SOURCE * 3, False, ("length",)),
        ("1984 der alte der alte der alte der alte der alte der alte.", False, ("repetition",)),
        ("1984年，哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈。", False, ("repetition",)),
        ("Im Jahr 1948 blickte der alte Kapitän auf das graue Meer und wartete.", False, ("digits",)),
    ],
)
def test_find_faults_names_what_looks_wrong(made, reached, expected):
    assert find_faults(SOURCE, made, reached_bound=reached) == expected


def test_weigh_counts_a_han_character_as_three_letters():
    assert [weigh(text) for text in ("abc, 1!", "今天。", "カナ", "안녕", "")] == [4, 6, 6, 4, 0]


def test_measure_repetition_weighs_the_heaviest_stretch():
    assert measure_repetition("x ab ab ab ab ab y no no no no") == 10
    assert measure_repetition("ab ab ab") == 0


def test_find_faults_suspects_few_human_translations(data):
    lines = (data / "translation" / "tatoeba_en_zh.tsv").read_text(encoding="utf-8").splitlines()[:4000]
    pairs = [tuple(line.split("\t")[:2]) for line in lines]
    both = [*pairs, *((zh, en) for en, zh in pairs)]
    faulty = [pair for pair in both if find_faults(*pair, reached_bound=False)]
    assert len(both) == 8000
    assert len(faulty) <= 2
