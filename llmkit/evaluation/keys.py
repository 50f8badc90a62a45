"""The keys that name the data of an evaluation: those of a recipe's section data, as far as they can act here."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from llmkit.data.columns import check_dataset, check_repeatable
from llmkit.errors import InputError
from llmkit.recipe.explaining import refuse
from llmkit.recipe.layers import list_leaves, read_overrides
from llmkit.recipe.parsing import COMMAND_LINE, Place, Problem, plain, show
from llmkit.recipe.schema import Count, Section, Text

Task = Literal["translation", "question-answering", "classification", "generation", "perplexity"]

TASKS: dict[str, Task] = {
    "translation": "translation",
    "question-answering": "question-answering",
    "classification": "classification",
    "sentiment": "classification",
    "generation": "generation",
    "perplexity": "perplexity",
}
# The columns that a task reads, in the order in which its examples hold them.
COLUMNS: Mapping[Task, tuple[str, ...]] = {
    "translation": ("source_column", "target_column"),
    "question-answering": ("question_column", "context_column", "answers_column"),
    "classification": ("text_column", "label_column"),
    "generation": ("prompt_column", "completion_column", "template"),
    "perplexity": ("text_column", "sample_by", "max_length", "stride"),
}
PARALLEL = ("source_path", "target_path")
FORMS = {
    "column_names": "a list of names",
    "sample_by": "one of line, paragraph, document",
    **dict.fromkeys(("max_length", "stride"), "a whole number from 1"),
}


class DataKeys(Section):
    """The data of an evaluation: what names them, or the user's own data set as an object."""

    _dataset: object = PrivateAttr(default=None)

    path: Text | None = Field(
        default=None, description="A file, glob or folder: csv, tsv, jsonl, json, parquet, arrow; of texts txt too."
    )
    column_names: list[Text] | None = Field(default=None, description="Columns of a csv or tsv file without a header.")
    encoding: Text = Field(default="utf-8", description="Encoding of text files.")
    text_column: Text = Field(default="text", description="Column that holds the text.")
    label_column: Text = Field(default="label", description="Column that holds its label.")
    source_column: Text = Field(default="source", description="Column that holds the text to translate.")
    target_column: Text = Field(default="target", description="Column that holds its translation.")
    question_column: Text = Field(default="question", description="Column that holds the question.")
    context_column: Text = Field(default="context", description="Column that holds the text to answer from.")
    answers_column: Text = Field(default="answers", description="Column that holds the right answers.")
    prompt_column: Text = Field(default="prompt", description="Column that holds a prompt, a text or a conversation.")
    completion_column: Text = Field(default="completion", description="Column that holds what it is answered by.")
    template: Text | None = Field(
        default=None, description="The prompt, with {COLUMN} for the text of a column, in the place of prompt_column."
    )
    sample_by: Literal["line", "paragraph", "document"] = Field(
        default="document", description="What a document is in a txt file."
    )
    max_length: Count | None = Field(
        default=None, description="Tokens of a window; unset: the model's context, 1,024 at most."
    )
    stride: Count | None = Field(default=None, description="Tokens that a window moves on; unset: half a window.")
    source_path: Text | None = Field(default=None, description="Text to translate, a line each; with target_path.")
    target_path: Text | None = Field(default=None, description="Their translations, a line each.")

    @property
    def dataset(self) -> object:
        """The user's own data set, in the place of files."""
        return self._dataset

    @property
    def title(self) -> str:
        """What the data are called."""
        return str(self.path or self.source_path or "the data set")


Data = str | os.PathLike[str] | Mapping[str, object] | Iterable[Mapping[str, object]] | DataKeys


def find_task(name: str) -> Task:
    """Find the task that a name means; sentiment is classification.

    Raises:
        InputError: It means none.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1)
        hint = f"did you mean {near[0]}?" if near else None
        raise InputError(f"unknown task, got {name!r}; expected {', '.join(TASKS)}", hint=hint)
    return TASKS[name]


def read_keys(data: Data | None, task: Task, arguments: Sequence[str] = ()) -> DataKeys:
    """Read what names the data, and check that all of it can act.

    Args:
        data: A path, the keys of a recipe's section data, path among them, or the user's own rows.
        task: The task that reads them.
        arguments: Keys of the command line, as "data.label_column=stars".

    Raises:
        InputError: A key is unknown, has no such value or cannot act; all problems at once.
    """
    if isinstance(data, DataKeys):
        return data if data.dataset is not None else _check(data, task)
    if data is not None and not isinstance(data, str | os.PathLike | Mapping):
        keys = DataKeys()
        keys._dataset = check_dataset(data)
        check_repeatable(data, hint="give a list of it")
        return keys
    given = dict(data) if isinstance(data, Mapping) else {} if data is None else {"path": data}
    tree, problems = read_overrides({f"data.{key}": value for key, value in given.items()})
    above, more = read_overrides(arguments)
    leaves = {**dict(list_leaves(tree)), **dict(list_leaves(above))}
    places = {key: node.place for key, node in leaves.items()}
    values = {key: plain(node) for key, node in leaves.items() if node.value is not None}
    problems += more
    for key in values:
        if not key.startswith("data."):
            problems.append(Problem(places[key], key, "expected a key of data, such as data.text_column"))
    try:
        keys = DataKeys.model_validate({key[5:]: value for key, value in values.items() if key.startswith("data.")})
    except ValidationError as err:
        problems += [_explain(error, places) for error in err.errors(include_url=False)]
    refuse("the call", problems)
    return _check(keys, task)


def _explain(error: ErrorDetails, places: Mapping[str, Place]) -> Problem:
    name = str(error["loc"][0])
    key, kind = f"data.{name}", error["type"]
    place = places.get(key, Place(COMMAND_LINE))
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, DataKeys.model_fields, 1)
        wanted = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(DataKeys.model_fields)}"
        return Problem(place, key, f"unknown key {show(name)}; {wanted}")
    form = FORMS.get(name, "text")
    return Problem(place, key, f"expected {form}, got {show(error['input'])}")


def _check(keys: DataKeys, task: Task) -> DataKeys:
    """Check that every key that was given can act for a task."""
    acting = {"path", "column_names", "encoding", *COLUMNS[task], *(PARALLEL if task == "translation" else ())}
    parallel = [name for name in PARALLEL if getattr(keys, name) is not None]
    for name in sorted(keys.model_fields_set - acting):
        raise InputError(f"data.{name} cannot act with {task}; expected {', '.join(COLUMNS[task])}")
    if {"prompt_column", "template"} <= keys.model_fields_set:
        raise InputError("got data.prompt_column beside data.template; expected one of the two")
    if len(parallel) == 1:
        raise InputError(f"got data.{parallel[0]} alone; expected data.source_path and data.target_path")
    if parallel and keys.path is not None:
        raise InputError("got data.source_path beside --data (data.path); expected one of the two")
    for name in sorted(keys.model_fields_set & {"column_names", *COLUMNS[task]}) if parallel else ():
        raise InputError(f"data.{name} cannot act beside data.source_path, whose lines have no columns")
    if not parallel and keys.path is None:
        also = ", or data.source_path and data.target_path" if task == "translation" else ""
        raise InputError(f"no data to evaluate on; expected --data FILE (in Python: data=){also}")
    return keys
