"""The store on disk: its form, what is refused, and that it is whole or not there."""

import errno
import hashlib
import json
import pathlib
import pickle

import numpy as np
import pytest
from conftest import byte_level_tokenizer, change, wordpiece_tokenizer

from llmkit.data import store as store_module
from llmkit.data.ledger import Counts
from llmkit.data.store import TokenStore, write_store
from llmkit.data.tokenizing import hash_tokenizer
from llmkit.errors import DamagedError, InputError, LlmkitError, RunError

TOKENIZER = byte_level_tokenizer()


def whole(*documents):
    return [(np.array(ids, np.int64), True, f"row {i}") for i, ids in enumerate(documents, 1)]


def write(folder, *documents, tokenizer=TOKENIZER):
    return write_store(folder, whole(*documents), tokenizer, counts=Counts("a.txt"))


def read_documents(store):
    return [
        store.read(start, stop - start).tolist() for start, stop in zip(store.starts, store.starts[1:], strict=False)
    ]


def refuse(error, folder):
    with pytest.raises(LlmkitError) as caught:
        TokenStore.open(folder)
    assert type(caught.value) is error
    assert len(str(caught.value)) <= 300
    return str(caught.value).replace(str(folder), "F")


def test_store_on_disk_is_what_design_says(tmp_path):
    write(tmp_path / "s", [1, 2, 300], [4], [5, 6])
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    assert [n for n in names if n.startswith("shard")] == ["shard-00000.bin", "shard-00000.idx", "shards.json"]
    assert np.fromfile(tmp_path / "s" / "shard-00000.bin", "<u2").tolist() == [1, 2, 300, 4, 5, 6]
    assert np.fromfile(tmp_path / "s" / "shard-00000.idx", "<u8").tolist() == [0, 3, 4]
    facts = json.loads((tmp_path / "s" / "shards.json").read_text(encoding="utf-8"))
    content = (tmp_path / "s" / "shard-00000.bin").read_bytes()
    assert facts.pop("counts")["tokens"] == 6
    assert facts == {
        "version": 1,
        "dtype": "uint16",
        "num_tokens": 6,
        "num_documents": 3,
        "tokenizer_sha256": hash_tokenizer(TOKENIZER),
        "shards": [{"num_tokens": 6, "num_documents": 3, "sha256": hashlib.sha256(content).hexdigest()}],
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "s"]


def test_store_brings_its_tokenizer(tmp_path):
    from llmkit.loading import load_tokenizer

    store = write(tmp_path / "s", [1, 2])
    tokenizer = load_tokenizer(tmp_path / "s")
    store.check_tokenizer(tokenizer)
    assert tokenizer.eos_token_id == TOKENIZER.eos_token_id


def test_large_vocabulary_takes_uint32(tmp_path, monkeypatch):
    class Many:
        """A tokenizer with more tokens than uint16 counts."""

        def __len__(self):
            return 65_537

        def get_vocab(self):
            return {"a": 1}

        def save_pretrained(self, folder):
            return ()

    store = write(tmp_path / "s", [65_536, 1], tokenizer=Many())
    assert (tmp_path / "s" / "shard-00000.bin").stat().st_size == 8
    assert store.read(0, 2).tolist() == [65_536, 1]


def test_documents_read_back_across_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_TOKENS", 4)
    documents = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10, 11, 12, 13], [14]]
    store = write(tmp_path / "s", *documents)
    assert [p.stat().st_size for p in sorted((tmp_path / "s").glob("*.bin"))] == [10, 16, 2]  # closed when passed
    assert store.starts.tolist() == [0, 3, 5, 6, 13, 14]
    assert (store.num_tokens, store.num_documents) == (14, 5)
    assert read_documents(store) == documents
    assert store.read(0, 14).tolist() == list(range(1, 15))
    assert store.read(4, 3).tolist() == [5, 6, 7]
    assert store.read(14, 0).tolist() == []
    assert store.take(np.array([0, 4, 5, 12, 13])).tolist() == [1, 5, 6, 13, 14]


def test_document_in_pieces_is_one(tmp_path):
    pieces = [(np.array([1, 2]), False, "a"), (np.array([], int), False, "a"), (np.array([3]), True, "a")]
    store = write_store(tmp_path / "s", pieces, TOKENIZER, counts=Counts("a"))
    assert read_documents(store) == [[1, 2, 3]]


def test_document_without_a_token_is_dropped_and_counted(tmp_path):
    counts = Counts("a.txt", documents=3)
    store = write_store(tmp_path / "s", whole([1], [], [2]), TOKENIZER, counts=counts)
    assert (store.counts.documents, store.counts.dropped, store.counts.tokens) == (2, {"no token": 1}, 2)
    assert read_documents(store) == [[1], [2]]


def test_store_without_documents_can_be_kept(tmp_path):
    store = write(tmp_path / "s")
    assert (store.num_tokens, store.num_documents) == (0, 0)


@pytest.mark.parametrize("wrong", [-1, len(TOKENIZER)])
def test_write_refuses_an_id_that_the_tokenizer_lacks_and_leaves_nothing(tmp_path, wrong):
    with pytest.raises(InputError) as caught:
        write(tmp_path / "s", [1], [2, wrong])
    assert str(caught.value) == f"row 2 holds the id {wrong}; the tokenizer has {len(TOKENIZER)} tokens"
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    write(folder, [7])
    opened = pathlib.Path.open

    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    def refuse_bins(path, *args, **kwargs):
        return Full() if path.suffix == ".bin" else opened(path, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "open", refuse_bins)
    with pytest.raises(RunError) as caught:
        write(folder, [1], [2])
    monkeypatch.undo()
    assert str(caught.value) == f"the token store {folder} cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == [folder]
    assert read_documents(TokenStore.open(folder)) == [[7]]  # what was there stays


def test_interrupted_write_leaves_nothing(tmp_path):
    def pieces():
        yield from whole([1], [2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s", pieces(), TOKENIZER, counts=Counts("a"))
    assert list(tmp_path.iterdir()) == []


def test_store_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(store_module, "_sync", lambda path: seen.append((path.name, (tmp_path / "s").exists())))
    write(tmp_path / "s", [1])
    names = {name for name, _ in seen}
    assert {"shard-00000.bin", "shard-00000.idx", "shards.json", "tokenizer.json", tmp_path.name} <= names
    assert [named for name, named in seen if name != tmp_path.name] == [False] * (len(seen) - 1)
    assert seen[-1] == (tmp_path.name, True)


def test_open_takes_the_keys_that_must_be_there_and_no_more(tmp_path):
    write(tmp_path / "s", [1, 2], [3])
    facts = json.loads((tmp_path / "s" / "shards.json").read_text(encoding="utf-8"))
    least = {key: facts[key] for key in ("dtype", "num_tokens", "num_documents", "tokenizer_sha256")}
    (tmp_path / "s" / "shards.json").write_text(json.dumps({**least, "board": 8}), encoding="utf-8")
    store = TokenStore.open(tmp_path / "s")
    assert read_documents(store) == [[1, 2], [3]]
    assert store.counts == Counts(str(tmp_path / "s"), documents=2, tokens=3)


def test_fingerprint_tells_contents_apart_and_not_places(tmp_path):
    first = write(tmp_path / "a", [1, 2], [3])
    assert write(tmp_path / "b", [1, 2], [3]).fingerprint == first.fingerprint
    assert write(tmp_path / "c", [1, 2, 3]).fingerprint != first.fingerprint
    assert write(tmp_path / "d", [1, 2], [4]).fingerprint != first.fingerprint
    change(tmp_path / "b" / "shards.json", shards=[{"num_tokens": 3, "num_documents": 2}])
    assert TokenStore.open(tmp_path / "b").fingerprint == first.fingerprint  # from the file where it is not stated


def test_store_goes_to_another_process_by_its_folder(tmp_path):
    store = write(tmp_path / "s", list(range(300)) * 200)
    content = pickle.dumps(store)
    assert len(content) < 1000
    assert read_documents(pickle.loads(content)) == read_documents(store)


@pytest.mark.parametrize("name", ["shard-00000.bin", "shard-00000.idx"])
def test_open_refuses_a_cut_or_missing_file(tmp_path, name):
    write(tmp_path / "s", [1, 2, 3], [4])
    path = tmp_path / "s" / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert refuse(DamagedError, tmp_path / "s") == f"F/{name} has {size - 1} bytes, expected {size}"
    path.unlink()
    assert refuse(DamagedError, tmp_path / "s") == f"F/{name} is missing"


@pytest.mark.parametrize("starts", [[0, 0], [1, 2], [0, 4], [0, 2**63]])
def test_open_refuses_starts_that_do_not_rise_within_the_shard(tmp_path, starts):
    write(tmp_path / "s", [1, 2, 3], [4])
    np.array(starts, "<u8").tofile(tmp_path / "s" / "shard-00000.idx")
    message = "F/shard-00000.idx does not hold rising starts of documents from 0 to below 4"
    assert refuse(DamagedError, tmp_path / "s") == message


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": 9}, InputError, "F/shards.json has version 9, expected 1"),
        ({"dtype": "int8"}, InputError, "F/shards.json has dtype 'int8', expected uint16 or uint32"),
        ({"dtype": ["uint16"]}, DamagedError, "F/shards.json cannot be read"),
        ({"num_tokens": "many"}, DamagedError, "F/shards.json cannot be read"),
        ({"shards": 7}, DamagedError, "F/shards.json cannot be read"),
        (
            {"num_tokens": 5},
            DamagedError,
            "F/shards.json: its shards add up to {'num_tokens': 4, 'num_documents': 2}, "
            "expected {'num_tokens': 5, 'num_documents': 2}",
        ),
    ],
)
def test_open_refuses_facts_that_cannot_be(tmp_path, changes, error, message):
    write(tmp_path / "s", [1, 2, 3], [4])
    change(tmp_path / "s" / "shards.json", **changes)
    assert refuse(error, tmp_path / "s") == message


@pytest.mark.parametrize("key", ["dtype", "num_tokens", "num_documents", "tokenizer_sha256"])
def test_open_names_a_key_that_lacks(tmp_path, key):
    write(tmp_path / "s", [1])
    path = tmp_path / "s" / "shards.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts[key]
    path.write_text(json.dumps(facts), encoding="utf-8")
    assert refuse(DamagedError, tmp_path / "s") == f"F/shards.json lacks the key {key!r}"


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000])
def test_open_refuses_what_is_no_json_object(tmp_path, content):
    (tmp_path / "shards.json").write_text(content, encoding="utf-8")
    assert refuse(DamagedError, tmp_path) == "F/shards.json cannot be read"


def test_open_refuses_a_folder_without_shards(tmp_path):
    assert refuse(InputError, tmp_path) == "no token shards in F; expected a folder with shards.json"


def test_check_ids_finds_an_id_beyond_the_vocabulary(tmp_path):
    store = write(tmp_path / "s", [1, 2], [7])
    store.check_ids(8)
    with pytest.raises(InputError) as caught:
        store.check_ids(7)
    assert str(caught.value) == f"{tmp_path / 's' / 'shard-00000.bin'} holds the id 7; the tokenizer has 7 tokens"


def test_check_tokenizer_takes_the_sha256_of_the_file_beside_too(tmp_path):
    write(tmp_path / "s", [1])
    digest = hashlib.sha256((tmp_path / "s" / "tokenizer.json").read_bytes()).hexdigest()
    change(tmp_path / "s" / "shards.json", tokenizer_sha256=digest)
    store = TokenStore.open(tmp_path / "s")
    store.check_tokenizer(TOKENIZER)
    with pytest.raises(InputError, match="were made by another tokenizer than this one"):
        store.check_tokenizer(wordpiece_tokenizer())
    change(tmp_path / "s" / "shards.json", tokenizer_sha256="0" * 64)
    with pytest.raises(InputError, match="were made by another tokenizer than this one"):
        TokenStore.open(tmp_path / "s").check_tokenizer(TOKENIZER)
