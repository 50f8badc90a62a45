"""What several processes agree on before they can talk through torch; here they are threads over one store."""

import threading
import time

import pytest
from torch.distributed import HashStore

from llmkit.errors import InputError, RunError
from llmkit.training import peers
from llmkit.training.peers import Heartbeat, OthersFailed, Peers


def everywhere(*calls):
    """Run a call in each process, rank by rank; give what each returned or raised."""
    store, found = HashStore(), [None] * len(calls)

    def work(rank):
        try:
            found[rank] = calls[rank](Peers(rank, len(calls), store))
        except Exception as err:
            found[rank] = err

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def does(value):
    return lambda peers: peers.together(lambda: value)


def fails(err):
    def call():
        raise err

    return lambda peers: peers.together(call)


def test_all_go_on_where_nobody_fails():
    assert everywhere(does(1), does(2), does(3)) == [1, 2, 3]


def test_first_process_says_what_failed_in_another():
    first, second, third = everywhere(does(1), does(2), fails(InputError("no such file", hint="look", details=("a",))))
    assert (type(first), str(first), first.hint, first.details) == (
        InputError,
        "process 2: no such file",
        "look",
        ("a",),
    )
    assert [(type(err), err.exit_code) for err in (second, third)] == [(OthersFailed, 2)] * 2


def test_first_process_says_its_own_sentence_where_all_fail_alike():
    first, second = everywhere(fails(RunError("disk full")), fails(RunError("disk full")))
    assert (type(first), str(first)) == (RunError, "disk full")
    assert (type(second), second.exit_code) == (OthersFailed, 1)


def test_first_process_takes_the_folder_for_all(tmp_path):
    def take(resume):
        def work(peers):
            with peers.claim(tmp_path / "run", resume=resume, overwrite=False) as start:
                return start

        return work

    assert everywhere(take("auto"), take("auto")) == [None, None]
    first, second = everywhere(take("must"), take("must"))
    assert str(first) == f"no whole step to resume from in {tmp_path / 'run'}"
    assert (type(second), second.exit_code) == (OthersFailed, 2)


def test_process_alone_needs_no_store(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with peers.meet() as alone:
        assert (alone.rank, alone.size, alone.store) == (0, 1, None)
        assert alone.together(lambda: 5) == 5


def test_variables_of_a_launcher_that_are_not_whole_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    sentence = "the launcher of this process left something out: .*RANK"
    with pytest.raises(InputError, match=sentence), peers.meet():
        pass


def test_heartbeat_names_a_stage_that_lasts(monkeypatch, notes):
    monkeypatch.setattr(peers, "BEAT_S", 0.02)
    heartbeat, step = Heartbeat("reading the data"), iter(range(10**6))
    with heartbeat.beating():
        time.sleep(0.3)
    assert notes
    assert {note.partition(" (")[0] for note in notes} == {"reading the data"}
    notes.clear()
    heartbeat.stage = lambda: f"at step {next(step)}"
    with heartbeat.beating():
        time.sleep(0.3)
    assert notes == []
