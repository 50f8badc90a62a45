import random

import pytest

from llmkit import batching, runtime
from llmkit.batching import Budget, plan, run


class Full(Exception):
    pass


def is_full(err):
    return isinstance(err, Full)


def test_plan_puts_the_longest_first_and_rows_of_one_length_in_their_order():
    assert plan([3, 9, 3, 1, 9, 2], Budget(18)) == [[1, 4], [0, 2, 5, 3]]


def test_plan_counts_padding():
    assert plan([4, 3, 3, 3], Budget(12)) == [[0, 1, 2], [3]]


def test_plan_bounds_rows():
    assert plan([1] * 5, Budget(100, rows=2)) == [[0, 1], [2, 3], [4]]


def test_plan_gives_a_row_above_the_budget_a_batch_of_its_own():
    assert plan([50, 20, 5, 5], Budget(10)) == [[0], [1], [2, 3]]


def test_plan_takes_rows_without_tokens():
    assert plan([0, 0, 0], Budget(2)) == [[0, 1], [2]]


def test_plan_of_no_rows_is_empty():
    assert plan([], Budget(8)) == []


@pytest.mark.parametrize("seed", range(20))
def test_plan_holds_each_row_once_and_keeps_the_budget(seed):
    rnd = random.Random(seed)
    lengths = [rnd.randint(0, 300) for _ in range(rnd.randint(1, 200))]
    budget = Budget(rnd.randint(1, 2000), rows=rnd.choice([None, 1, 7]))
    batches = plan(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget.tokens
        assert budget.rows is None or len(batch) <= budget.rows
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_run_gives_results_in_the_order_of_the_rows():
    lengths, seen = [3, 9, 1, 9, 2], []

    def call(batch):
        seen.append(batch)
        return [i * 10 for i in batch]

    assert run(lengths, Budget(18), call, is_full=is_full) == [0, 10, 20, 30, 40]
    assert seen == plan(lengths, Budget(18))


def test_run_halves_the_budget_for_good_and_notes_it_once(notes):
    budget, seen = Budget(64), []

    def call(batch):
        seen.append(len(batch))
        if len(batch) * 4 > 16:
            raise Full
        return batch

    assert run([4] * 20, budget, call, is_full=is_full) == list(range(20))
    assert (seen, budget.tokens) == ([16, 8, 4, 4, 4, 4, 4], 16)
    assert notes == ["the device's memory is full; batches hold 32 tokens from here on"]
    assert run([4] * 4, budget, call, is_full=is_full) == [0, 1, 2, 3]
    assert len(notes) == 1


def test_run_plans_the_rest_again_after_the_memory_was_full():
    done, lengths = [], [8, 8, 2, 2, 2]

    def call(batch):
        if sum(lengths[i] for i in batch) > 12:
            raise Full
        done.append(batch)
        return batch

    assert run(lengths, Budget(16), call, is_full=is_full) == [0, 1, 2, 3, 4]
    assert done == [[0], [1], [2, 3, 4]]


def test_run_gives_up_on_a_row_that_alone_fills_the_memory():
    def call(batch):
        raise Full

    with pytest.raises(Full):
        run([4, 4], Budget(8), call, is_full=is_full)


def test_run_lets_other_errors_through():
    def call(batch):
        raise KeyError("x")

    budget = Budget(64)
    with pytest.raises(KeyError):
        run([4, 4], budget, call, is_full=is_full)
    assert budget.tokens == 64


def test_run_notices_a_result_that_is_missing():
    with pytest.raises(ValueError, match="shorter"):
        run([1, 1], Budget(8), lambda batch: batch[:1], is_full=is_full)


def test_run_of_no_rows_calls_nothing():
    assert run([], batching.Budget(8), lambda batch: pytest.fail("called"), is_full=is_full) == []


# --- the budget of a model


@pytest.mark.parametrize(("generates", "tokens"), [(False, 1024), (True, 2048)])
def test_token_budget_keeps_a_cpu_busy(generates, tokens):
    assert runtime.token_budget(tiny(generates)) == tokens


def test_token_budget_lets_an_encoder_decoder_share_its_weights_among_more_rows():
    model = tiny(True)
    model.config.is_encoder_decoder = True
    assert runtime.token_budget(model) == 4096


def test_token_budget_takes_a_quarter_of_the_free_memory_at_most(monkeypatch):
    monkeypatch.setattr(runtime, "free_memory", lambda device: 4 * 16 * 128 * 4 * 100)  # 100 tokens of width 128
    assert runtime.token_budget(tiny(False)) == 100
    monkeypatch.setattr(runtime, "free_memory", lambda device: 0)
    assert runtime.token_budget(tiny(False)) == 1


def tiny(generates):
    from transformers import BertConfig, BertForSequenceClassification, BertLMHeadModel

    kind = BertLMHeadModel if generates else BertForSequenceClassification
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 128}
    return kind(BertConfig(vocab_size=10, is_decoder=generates, **shape))
