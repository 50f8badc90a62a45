"""Whatever the moment of a crash, a run has a whole checkpoint to go on from: each state of the disk is tried.

A sequence of saves is recorded, operation by operation. After each of them the machine stops: the names of a folder
that was not synced may be there up to any one of the changes, files that were not synced are kept, zeroed, torn or
empty. What is left is put on a disk, and the run folder has to come back from it.
"""

import collections
import itertools
import json
import sys

import pytest

from llmkit import runfolder
from llmkit.runfolder import Disk, find_damage, newest_whole, prune, publish, recover


class MemoryDisk(Disk):
    """Waits for nothing: a crash is played, not had."""

    def sync(self, path):
        assert path.exists()


class Recorder(MemoryDisk):
    """Does each operation, and notes it."""

    def __init__(self, root):
        self.root, self.events = root, []

    def note(self, kind, path, *more):
        self.events.append((kind, path.relative_to(self.root).parts, *more))

    def make_folder(self, folder):
        super().make_folder(folder)
        self.note("make", folder)

    def fill(self, folder, writer):
        super().fill(folder, writer)
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                self.note("make", path)
            else:
                self.note("write", path, path.read_bytes())

    def write(self, path, content):
        super().write(path, content)
        self.note("write", path, content)

    def sync(self, path):
        super().sync(path)
        self.note("sync", path)

    def rename(self, old, new):
        super().rename(old, new)
        self.note("rename", old, new.name)

    def remove(self, path):
        for inner in [*sorted(path.rglob("*"), reverse=True), path]:
            self.note("remove", inner)
        super().remove(path)


class File:
    def __init__(self, content):
        self.content, self.synced = content, False


class Folder:
    """Holds names as they are, as the disk has them for sure, and the changes between."""

    def __init__(self):
        self.now, self.synced, self.changes = {}, {}, []

    def change(self, **names):
        self.changes.append(names)
        apply(self.now, names)


def apply(names, change):
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def play(events):
    """Play operations on a disk in memory; return its root."""
    root = Folder()
    for kind, parts, *more in events:
        above = root
        for part in parts[:-1]:
            above = above.now[part]
        name = parts[-1] if parts else None
        if kind == "make":
            above.change(**{name: Folder()})
        elif kind == "write":
            above.change(**{name: File(more[0])})
        elif kind == "remove":
            above.change(**{name: None})
        elif kind == "rename":
            above.change(**{name: None, more[0]: above.now[name]})
        elif kind == "sync":
            node = above.now[name] if parts else root
            if isinstance(node, File):
                node.synced = True
            else:
                node.synced, node.changes = dict(node.now), []
    return root


def nodes(folder):
    yield folder
    for node in {id(n): n for change in ({}, folder.now, folder.synced) for n in change.values()}.values():
        if isinstance(node, Folder):
            yield from nodes(node)


DAMAGE = {
    "kept": lambda content: content,
    "zeroed": lambda content: bytes(len(content)),
    "torn": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


def crash(root):
    """Each tree that a crash may leave: path -> bytes, or None for a folder."""
    folders = [f for f in nodes(root) if f.changes]
    # any number of the changes in the folders of the run, all or nothing of those inside a checkpoint
    reached = {id(f) for f in (root, *root.now.values(), *(n for f in root.now.values() for n in f.now.values()))}
    choices = [range(len(f.changes) + 1) if id(f) in reached else (0, len(f.changes)) for f in folders]
    for counts in itertools.product(*choices):
        applied = {id(f): f.changes[:n] for f, n in zip(folders, counts, strict=True)}
        for damage in DAMAGE.values():
            yield dict(list_tree(root, (), applied, damage))


def crash_in_order(root):
    """The trees of a disk that keeps the order of names."""
    applied = {id(f): f.changes for f in nodes(root)}
    for damage in DAMAGE.values():
        yield dict(list_tree(root, (), applied, damage))


def list_tree(folder, parts, applied, damage):
    names = dict(folder.synced)
    for change in applied.get(id(folder), ()):
        apply(names, change)
    for name, node in names.items():
        if isinstance(node, Folder):
            yield (*parts, name), None
            yield from list_tree(node, (*parts, name), applied, damage)
        else:
            yield (*parts, name), node.content if node.synced else damage(node.content)


def put(tree, root):
    root.mkdir(parents=True)
    for parts, content in tree.items():
        path = root.joinpath(*parts)
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)


def writer(number):
    """A small checkpoint that says which save it is of."""

    def fill(folder):
        (folder / "model.safetensors").write_bytes(b"weights %d" % number * 3)
        (folder / "state").mkdir()
        (folder / "state" / "state.json").write_text(json.dumps({"save": number}))

    return fill


def is_as_saved(folder, number):
    content = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    content.pop("manifest.json", None)
    weights = b"weights %d" % number * 3
    return content == {"model.safetensors": weights, "state/state.json": json.dumps({"save": number}).encode()}


# steps 1, 2, 3, then 3 again, then 2 again (an older step was resumed), then 3; best/ comes between
SAVES = [("step", 1), ("best", 1), ("step", 2), ("step", 3), ("best", 3), ("step", 3), ("step", 2), ("step", 3)]


def record(folder, keep, *, delete_first=False):
    """Save; return the operations, and which saves were complete after how many of them."""
    folder.mkdir()
    disk, ends = Recorder(folder), []
    run = folder / "run"
    for number, (kind, step) in enumerate(SAVES):
        target = run / "best" if kind == "best" else run / "checkpoints" / f"step-{step:06}"
        if delete_first and kind == "step":
            for old in runfolder.steps(run)[keep - 1 :]:
                disk.remove(old)
        publish(target, writer(number), disk)
        if kind == "step":
            prune(run, step, keep, disk)
        ends.append((len(disk.events), kind, number))
    return disk.events, ends


def examine(run, done):
    """Bring a run back after a crash; return what is wrong with it, given the last complete save of each kind."""
    if run.is_dir():
        recover(run, MemoryDisk())
    left = [p.name for p in run.rglob(".*")]
    if left:
        return f"left over: {left}"
    best = run / "best" if find_damage(run / "best") is None else None
    for kind, folder in (("step", newest_whole(run)[0]), ("best", best)):
        if folder is None:
            if kind in done:
                return f"lost: {kind}"
            continue
        numbers = [n for n, (k, _) in enumerate(SAVES) if k == kind and is_as_saved(folder, n)]
        if not numbers:
            return f"damaged: {folder.name}"
        if numbers[0] < done.get(kind, 0):
            return f"gone back: {folder.name}"
    return None


def complete(ends, k):
    return {kind: number for end, kind, number in ends if end <= k}


def try_states(tmp_path, histories, crash=crash):
    """Count the states that crashes after each of these histories leave, by what is wrong with them."""
    seen, found = set(), collections.Counter()
    for events, done in histories:
        for tree in crash(play(events)):
            key = (frozenset(tree.items()), frozenset(done.items()))
            if key in seen:
                continue
            seen.add(key)
            root = tmp_path / f"state-{len(seen)}"
            put(tree, root)
            found[examine(root / "run", done)] += 1
    return found


def prefixes(events, ends):
    return [(events[:k], complete(ends, k)) for k in range(len(events) + 1)]


def report(name, found):
    sys.stdout.write(f"{name} states={found.total()} without_a_whole_checkpoint={found.total() - found[None]}\n")


@pytest.mark.parametrize("keep", [1, 2])
def test_crash_leaves_the_last_complete_save_or_a_newer_one(tmp_path, keep):
    found = try_states(tmp_path, prefixes(*record(tmp_path / "real", keep)))
    report(f"keep={keep}", found)
    assert set(found) == {None}
    assert found.total() > 300


def test_crash_while_a_killed_run_is_brought_back_loses_nothing(tmp_path):
    events, ends = record(tmp_path / "real", 1)
    histories = []
    for k in range(len(events) + 1):
        root = tmp_path / f"killed-{k}"
        state = play(events[:k])  # the process was killed, the disk was not: all is there
        applied = {id(f): f.changes for f in nodes(state)}
        put(dict(list_tree(state, (), applied, DAMAGE["kept"])), root)
        disk = Recorder(root)
        if (root / "run").is_dir():
            recover(root / "run", disk)
        more = disk.events
        histories += [([*events[:k], *more[:j]], complete(ends, k)) for j in range(1, len(more) + 1)]
    found = try_states(tmp_path, histories)
    report("killed before", found)
    assert set(found) == {None}
    assert found.total() > 50


def test_disk_that_syncs_nothing_never_passes_off_damage_as_a_checkpoint(tmp_path):
    events, ends = record(tmp_path / "real", 2)
    histories = [(without_syncs(e), {}) for e, _ in prefixes(events, ends)]
    assert set(try_states(tmp_path, histories, crash_in_order)) == {None}


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [("no sync", "lost: step"), ("no manifest check", "damaged: step-000001"), ("delete first", "lost: step")],
)
def test_states_show_what_each_precaution_is_for(tmp_path, monkeypatch, fault, wrong):
    histories = prefixes(*record(tmp_path / "real", 1, delete_first=fault == "delete first"))
    if fault != "delete first":
        histories = [(without_syncs(events), done) for events, done in histories]
    if fault == "no manifest check":
        monkeypatch.setattr(runfolder, "find_damage", lambda folder: None)
    assert try_states(tmp_path, histories, crash_in_order)[wrong] > 0


def without_syncs(events):
    return [event for event in events if event[0] != "sync"]
