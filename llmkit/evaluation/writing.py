"""An evaluation as a folder: evaluation.json, rows.jsonl with every row, and evaluation.html, a page to look at."""

import json
import os
from pathlib import Path

from llmkit import pages, runfolder
from llmkit.encoding.prompts import Prompt
from llmkit.errors import InputError, RunError
from llmkit.evaluation.comparing import Comparison
from llmkit.evaluation.evaluating import Evaluation, list_failures
from llmkit.evaluation.outcomes import Confusion, Row
from llmkit.evaluation.resampling import Difference, Interval

SUMMARY, ROWS, PAGE = "evaluation.json", "rows.jsonl", "evaluation.html"
NUM_WORST = 20  # rows on the page
LONGEST = 400  # characters of a text on the page
MOST_LABELS = 20  # of a table of confusion; of more, the pairs that are confused most are listed
# task -> the score by which a row is bad, and whether it is the high ones that are
WORST: dict[str, tuple[str, bool]] = {
    "translation": ("chrf", False),
    "question-answering": ("f1", False),
    "classification": ("score", False),
    "generation": ("f1", False),
    "perplexity": ("loss", True),
}


def write_evaluation(
    result: Evaluation | Comparison, folder: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write what came of evaluate or compare as a folder, whole or not at all.

    It holds evaluation.json (what --json prints, with the checkpoint and the path of the data), rows.jsonl (every row
    with what was given, expected and got, and its scores), evaluation.html, and manifest.json with their sha256.

    Args:
        result: The evaluation or comparison.
        folder: The folder.
        overwrite: Whether an evaluation that lies there is replaced.

    Raises:
        InputError: The folder is there already, or cannot be made.
        RunError: The disk is full.
    """
    target = Path(folder)
    check_folder(target, overwrite=overwrite)
    first = result if isinstance(result, Evaluation) else result.first
    second = None if isinstance(result, Evaluation) else result.second
    summary = {"checkpoint": first.checkpoint, "data": first.data, **result.as_dict()}
    lines = [json.dumps(row, ensure_ascii=False) for row in _list_rows(first, second)]

    def fill(place: Path) -> None:
        (place / SUMMARY).write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (place / ROWS).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        (place / PAGE).write_text(make_page(result), encoding="utf-8")

    try:
        runfolder.publish(target, fill)
    except OSError as err:
        raise RunError(f"{target} cannot be written: {err.strerror}") from err
    return target


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Check the place of an evaluation before any work.

    Raises:
        InputError: It is taken, by something else than an evaluation even where one may be replaced, or cannot be made.
    """
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists already", hint="--overwrite (in Python: overwrite=True) replaces it")
    if folder.exists() and not (folder / SUMMARY).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} holds no evaluation, and is not replaced; expected a new folder")
    place = above.parent if folder.exists() else above
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"{folder} cannot be made: {place} is no folder that can be written to")


def _list_rows(first: Evaluation, second: Evaluation | None) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for i, row in enumerate(first.rows):
        expected = list(row.expected) if isinstance(row.expected, tuple) else row.expected
        line = {"where": row.where, "given": dict(row.given), "expected": expected, "got": row.got}
        found.append({**line, "scores": dict(row.scores)})
        if second is not None:
            other = second.rows[i]
            found[-1]["against"] = {"got": other.got, "scores": dict(other.scores)}
    return found


def make_page(result: Evaluation | Comparison) -> str:
    """Make the page of an evaluation, or of a comparison: metrics, confusion and the worst rows."""
    first = result if isinstance(result, Evaluation) else result.first
    second = None if isinstance(result, Evaluation) else result.second
    title = f"{first.checkpoint or 'a model'} on {first.task}"
    if second is not None:
        title += f", against {second.checkpoint or 'a model'}"
    confusions = (
        [("", first.confusion)] if second is None else [(one.checkpoint, one.confusion) for one in (first, second)]
    )
    return pages.make_page(
        title,
        pages.make_section("Metrics", _list_metrics(result)),
        pages.make_section("What was measured", pages.make_table((), _list_facts(first, second))),
        *(pages.make_section(f"Confusion {name}".strip(), _show_confusion(one)) for name, one in confusions),
        pages.make_section(f"The {min(NUM_WORST, len(first.rows))} worst rows", _list_worst(first, second)),
    )


def _list_metrics(result: Evaluation | Comparison) -> str:
    if isinstance(result, Evaluation):
        rows = [
            (name, f"{value:.4f}", _show_span(result.intervals.get(name))) for name, value in result.metrics.items()
        ]
        return pages.make_table(("metric", "value", "95 % interval"), rows)
    names = [result.first.checkpoint or "first", result.second.checkpoint or "second"]
    lines = []
    for name in dict.fromkeys((*result.first.metrics, *result.second.metrics)):  # one may lack a metric that failed
        cells = [
            f"{one.metrics[name]:.4f} {_show_span(one.intervals.get(name))}" if name in one.metrics else ""
            for one in (result.first, result.second)
        ]
        found = result.differences.get(name)
        lines.append((name, *cells, "" if found is None else _show_difference(found)))
    return pages.make_table(("metric", *names, "difference"), lines)


def _show_difference(found: Difference) -> str:
    chance = "" if found.p_value is None else f", p {found.p_value:.4f}"
    return f"{found.value:+.4f} {_show_span(found.interval)}{chance}"


def _show_span(span: Interval | None) -> str:
    return "" if span is None else f"[{span[0]:.4f}, {span[1]:.4f}]"


def _list_facts(first: Evaluation, second: Evaluation | None) -> list[tuple[str, str]]:
    drawn = "" if first.seed is None else f", drawn by seed {first.seed}"
    facts = [("checkpoint", first.checkpoint)]
    facts += [("against", second.checkpoint)] if second is not None else []
    facts += [("data", first.data), ("rows", f"{first.n:,} of {first.num_rows:,}{drawn}")]
    facts += [("definition", first.definition)] if first.definition is not None else []
    facts += list(first.signatures.items())
    facts += [("failed", reason) for reason in list_failures(*([first] if second is None else [first, second]))]
    return [*facts, ("seconds", f"{first.seconds:,.1f}")]


def _show_confusion(confusion: Confusion | None) -> str:
    """Show the right labels down and the found ones across; of many labels the pairs that are confused most."""
    if confusion is None:
        return ""
    labels, counts = confusion.labels, confusion.counts
    if len(labels) <= MOST_LABELS:
        rows = [(label, *(f"{count:,}" for count in line)) for label, line in zip(labels, counts, strict=True)]
        return pages.make_table(("right \\ found", *labels), rows)
    pairs = [
        (count, labels[i], labels[j])
        for i, line in enumerate(counts)
        for j, count in enumerate(line)
        if i != j and count
    ]
    most = sorted(pairs, key=lambda pair: -pair[0])[:MOST_LABELS]
    return pages.make_table(("right", "found", "rows"), [(right, found, f"{count:,}") for count, right, found in most])


def _list_worst(first: Evaluation, second: Evaluation | None) -> str:
    name, high = WORST[first.task]
    ranked = sorted(
        (i for i, row in enumerate(first.rows) if name in row.scores),
        key=lambda i: -first.rows[i].scores[name] if high else first.rows[i].scores[name],
    )[:NUM_WORST]
    tables = []
    for number, i in enumerate(ranked, 1):
        row = first.rows[i]
        lines = [(field, _shorten(_spell(given))) for field, given in row.given.items()]
        lines += [("expected", _shorten(_spell_expected(row)))] if row.expected is not None else []
        lines += _list_answer(row, "")
        lines += _list_answer(second.rows[i], " by the other") if second is not None else []
        tables.append(pages.make_table((f"{number}.", row.where.removeprefix(f"{Path(first.data).parent}/")), lines))
    return "\n<p></p>\n".join(tables)


def _list_answer(row: Row, by: str) -> list[tuple[str, str]]:
    got = [(f"got{by}", _shorten(row.got))] if row.got is not None else []
    return [*got, (f"scores{by}", ", ".join(f"{name} {value:.4g}" for name, value in row.scores.items()))]


def _spell(given: Prompt) -> str:
    if isinstance(given, str):
        return given
    return "\n".join(f"{message['role']}: {message['content']}" for message in given)


def _spell_expected(row: Row) -> str:
    return " / ".join(dict.fromkeys(row.expected)) if isinstance(row.expected, tuple) else row.expected or ""


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
