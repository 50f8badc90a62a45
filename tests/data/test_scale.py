"""The simulation of docs/concepts/scale.md: it reads what a run reads, and its arithmetic is that of its sources."""

import dataclasses
import itertools
import statistics
from types import SimpleNamespace

import pytest

from benchmarks import scale
from llmkit.data.order import ShuffledRows
from llmkit.data.rows import TokenRows

BATCH, MICRO, STEPS = 12, 2, 6


class NotedRows:
    """The rows of a run, and the positions that were read of them."""

    def __init__(self, rows):
        self.rows, self.read, self.num_rows = rows, [], rows.num_rows

    def __getitem__(self, position):
        self.read.append(position)
        return self.rows[position]


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("world", [2, 3])
def test_deal_gives_the_rows_that_a_run_reads(world, first, make_recipe, monkeypatch):
    import llmkit
    from llmkit.training import loop
    from llmkit.training.session import State

    read = []

    def read_as_each(s):
        rows = NotedRows(s.plan.data.train)
        plan = dataclasses.replace(s.plan, data=dataclasses.replace(s.plan.data, train=rows))
        for rank in range(world):
            rows.read = []
            place = SimpleNamespace(num_processes=world, process_index=rank, device=s.accelerator.device)
            one = dataclasses.replace(s, plan=plan, accelerator=place, state=State(step=first))
            assert len(list(loop.read_steps(one))) == STEPS - first
            read.append(rows.read)
        return "time"

    monkeypatch.setattr(loop, "run_steps", read_as_each)
    train = {"max_steps": STEPS, "global_batch_size": BATCH, "micro_batch_size": MICRO}
    llmkit.train(make_recipe(train=train))
    dealt = [scale.deal(first * BATCH, STEPS * BATCH, MICRO, world=world, rank=rank) for rank in range(world)]
    assert read == [list(itertools.chain(*one)) for one in dealt]
    assert [len(one) for one in read] == [(STEPS - first) * BATCH // world] * world


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale") / "store"
    scale.write_sample(folder, 200_000, 40_000)
    return scale.NotedStore.open(folder)


@pytest.mark.parametrize("world", [1, 64])
def test_processes_together_read_each_row_of_an_epoch_once(store, world):
    rows = ShuffledRows(TokenRows(store, max_length=64, on_long="split", pack=True), seed=0)
    batch, stop = 256, -(-rows.num_rows // 256) * 256
    readings = scale.read_as(store, rows, stop, 4, world=world)
    assert rows.num_rows % batch
    assert sorted(position for reading in readings for position in reading.positions) == list(range(stop))
    first = [s for r in readings for p, s in zip(r.positions, r.spans, strict=True) if p < rows.num_rows]
    assert sorted(start for start, _ in first) == list(range(0, 200_000 - 1, 63))
    assert sum(length for _, length in first) == 200_000 + rows.num_rows - 1
    assert scale.count_once(readings, rows.num_rows) == rows.num_rows


def test_count_once_leaves_out_what_two_processes_read():
    readings = [scale.Reading([0, 1], [(0, 8), (7, 8)]), scale.Reading([2, 3], [(7, 8), (14, 8)])]
    assert scale.count_once(readings, 4) == 2


def test_find_pages_counts_those_of_each_shard():
    ends = [10_000, 30_000]  # in bytes; a token has two
    assert scale.find_pages([(0, 1)], ends) == {(0, 0)}
    assert scale.find_pages([(2_047, 2)], ends) == {(0, 0), (0, 1)}
    assert scale.find_pages([(4_990, 20), (5_000, 2_048)], ends) == {(0, 2), (1, 0)}


def test_each_process_of_a_stream_reads_all_of_it(monkeypatch):
    monkeypatch.setattr(scale, "LENGTH", 32)  # 2,187 rows: three blocks
    pieces = list(scale.draw_documents(70_000))
    assert scale.count_streamed(pieces, 1) == [70_000]
    assert scale.count_streamed(pieces, 8) == [70_000] * 8


@pytest.mark.parametrize("restart", [600, 7200])
@pytest.mark.parametrize("hours", [13.6, 50.7])
def test_simulated_goodput_agrees_with_the_formula(hours, restart, monkeypatch):
    """The mean of 16 simulations is within three of its standard errors, and those are below 0.1 percentage points."""
    monkeypatch.setattr(scale, "INTERVALS", 50_000)
    mtbf = hours * 3600
    interval = scale.find_interval(60, mtbf)
    simulated = [scale.simulate_goodput(interval, 60, restart, mtbf, seed) for seed in range(16)]
    error = statistics.stdev(simulated) / 4
    assert error < 0.001
    assert statistics.mean(simulated) == pytest.approx(
        scale.compute_goodput(interval, 60, restart, mtbf), rel=0, abs=3 * error
    )


def test_interval_of_young_is_about_the_best():
    mtbf = 50 * 3600
    best = max(range(60, 20_000, 10), key=lambda interval: scale.compute_goodput(interval, 60, 600, mtbf))
    assert scale.find_interval(60, mtbf) == pytest.approx(best, rel=0.02)


def test_communication_is_hidden_from_one_number_of_tokens_on(monkeypatch):
    """The number that the table states, which the size of the model does not change."""
    link = 50e9
    least = 2 * scale.GPUS["H100"].peak("bf16") * scale.UTILIZATION / link
    for tokens, hidden in ((least * 1.01, True), (least * 0.99, False)):
        monkeypatch.setattr(scale, "MICRO_TOKENS", tokens)
        for sharded in (False, True):
            assert (scale.stretch_step(link, 1, sharded=sharded) == pytest.approx(1, abs=1e-9)) == hidden
    monkeypatch.setattr(scale, "MICRO_TOKENS", least / 1000)
    slow = [scale.stretch_step(link, 1, sharded=sharded) for sharded in (False, True)]
    assert slow[1] / slow[0] == pytest.approx(1.5, rel=0.01)  # ZeRO: three times the parameters for twice
    assert scale.stretch_step(link, 10, sharded=True) / slow[1] == pytest.approx(7 / 10, rel=0.01)  # 21 words for 3
