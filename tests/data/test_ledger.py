"""What the ledger says of a source."""

from llmkit.data.ledger import Counts, Ledger, SourceLedger


def test_counts_drop_counts_by_rule():
    counts = Counts("a")
    for rule in ("urls", "code", "urls"):
        counts.drop(rule)
    assert counts.dropped == {"urls": 2, "code": 1}


def test_ledger_names_each_fate_that_befell_a_token():
    counts = Counts("a.jsonl", documents=1200, tokens=5000, dropped={"code": 3}, empty=4, bad_rows=2, surrogates=1)
    source = SourceLedger(counts, trained_on=3000, held_out=500, first=1190, cut=110, dropped=200, num_long=10)
    assert str(Ledger([source])).splitlines() == [
        "a.jsonl",
        "  documents  1,200 read, 3 dropped: code, 10 dropped: longer than max_length, 4 empty, "
        "2 rows without text skipped, 1 with lone surrogates replaced",
        "  tokens     5,000 read = 3,000 trained on + 500 held out + 1,190 at the start of a document + 110 cut "
        "+ 200 dropped",
    ]


def test_ledger_leaves_out_what_did_not_happen():
    source = SourceLedger(Counts("a", documents=1, tokens=3), trained_on=2, first=1)
    assert source.lines() == [
        "a",
        "  documents  1 read",
        "  tokens     3 read = 2 trained on + 1 at the start of a document",
    ]


def test_ledger_of_a_mixture_a_stream_and_evaluation():
    mixed = SourceLedger(Counts("a", documents=1, tokens=3), trained_on=2, first=1, passes=1.5)
    stream = SourceLedger(Counts("b"), is_stream=True)
    other = SourceLedger(Counts("c", documents=1, tokens=2), held_out=1, first=1)
    assert str(Ledger([mixed, stream], other)).splitlines() == [
        "a, 1.50 passes an epoch",
        "  documents  1 read",
        "  tokens     3 read = 2 trained on + 1 at the start of a document",
        "b: a stream, tokenized while training",
        "evaluation:",
        "c",
        "  documents  1 read",
        "  tokens     2 read = 1 held out + 1 at the start of a document",
    ]


def test_ledger_names_the_rule_for_short_paragraphs_and_documents_held_out():
    counts = Counts("小说.jsonl", documents=12, tokens=900, dropped={"min_paragraph_chars": 2})
    assert SourceLedger(counts, trained_on=700, held_out=188, first=12).lines() == [
        "小说.jsonl",
        "  documents  12 read, 2 dropped: min_paragraph_chars",
        "  tokens     900 read = 700 trained on + 188 held out + 12 at the start of a document",
    ]
