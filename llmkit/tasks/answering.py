"""Answer questions about texts: answer and answer_batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

from llmkit.defaults import default_checkpoint
from llmkit.errors import InputError
from llmkit.heads import find_head
from llmkit.loading import Checkpoint, load
from llmkit.tasks import asking, extracted_answers, generated_answers
from llmkit.tasks.asking import Asking, Contexts, Settings, Source
from llmkit.tasks.extracted_answers import Extractor, Question
from llmkit.tasks.generated_answers import Prompted, Writer
from llmkit.tasks.results import Answer
from llmkit.tasks.sampling import check_names

TASKS = ("question-answering", "generation")  # the heads that can answer


def answer(
    question: str,
    *,
    context: Contexts,
    model: Checkpoint | None = None,
    **settings: Unpack[Asking],
) -> Answer:
    """Answer a question from a text of any length, or from several texts.

    A model with a head for question answering gives the best span of the text. Its score is the probability of its
    start times that of its end, each over the tokens of all windows of all texts, so that scores of windows compare.
    A causal language model writes the answer; the score is the product of the probabilities of its tokens, and the
    place is known where the answer stands in the text word for word.

    Source: Clark and Gardner 2018, Simple and Effective Multi-Paragraph Reading Comprehension (shared normalization).

    Args:
        question: The question.
        context: A text, or texts by name; then `file` of an answer is the name of its text.
        model: A checkpoint's name, loaded at each call, or a Loaded; None takes the default.
        **settings: See Asking.

    Raises:
        TypeError: The question or a text is no str.
        InputError: An argument is out of range, the question or a text is empty, or the question does not fit.
    """
    _check_question("question", question)
    _check_contexts("context", context)
    check_names(settings, Asking)
    job = prepare(model, Settings(**settings))
    return job.run([job.ask(question, job.read(context))])[0]


def answer_batch(
    questions: Sequence[str],
    *,
    contexts: Contexts | Sequence[Contexts],
    model: Checkpoint | None = None,
    **settings: Unpack[Asking],
) -> list[Answer]:
    """Answer many questions; the answers come in the order given, each what answer returns for it alone.

    Args:
        questions: The questions.
        contexts: A text, or texts by name, for all questions; or a list with one such for each question.
        model: As for answer.
        **settings: See Asking.

    Raises:
        TypeError: A question or a text is no str; names its index, and nothing is started.
        InputError: As for answer; names the index of the question.
    """
    if isinstance(questions, str) or not isinstance(questions, Sequence):
        raise TypeError(f"questions must be a list of questions, got {type(questions).__name__}")
    for i, question in enumerate(questions):
        _check_question(f"question {i}", question)
    pairs = list(zip(questions, _spread(contexts, len(questions)), strict=True))
    check_names(settings, Asking)
    job = prepare(model, Settings(**settings))
    return job.run_pairs(pairs)


def _spread(contexts: Contexts | Sequence[Contexts], count: int) -> Sequence[Contexts]:
    """Give each question its texts."""
    if isinstance(contexts, str | Mapping):
        _check_contexts("contexts", contexts)
        return [contexts] * count
    if not isinstance(contexts, Sequence):
        raise TypeError(f"contexts must be a text, texts by name or a list of them, got {type(contexts).__name__}")
    for i, context in enumerate(contexts):
        _check_contexts(f"context {i}", context)
    if len(contexts) != count:
        raise InputError(f"contexts must be as many as questions, got {len(contexts)} for {count}")
    return contexts


def _check_question(name: str, question: object) -> None:
    if not isinstance(question, str):
        raise TypeError(f"{name} must be a text, got {type(question).__name__}")


def _check_contexts(name: str, context: object) -> None:
    if isinstance(context, Mapping):
        for key, text in context.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise TypeError(f"{name} must hold texts by name, got {type(text).__name__} under {key!r}")
    elif not isinstance(context, str):
        raise TypeError(f"{name} must be a text or texts by name, got {type(context).__name__}")


@dataclass(frozen=True)
class Job:
    """Holds what all questions of one call share; `way` finds answers or writes them."""

    way: Extractor | Writer

    def read(self, contexts: Contexts) -> Source:
        """Encode a text, or texts by name, once for any number of questions.

        Raises:
            InputError: One is empty.
        """
        return self.way.read(contexts)

    def ask(self, question: str, source: Source) -> Question | Prompted:
        """Plan the windows of a question.

        Raises:
            InputError: The question is empty or does not fit.
        """
        return self.way.ask(question, source)

    def run(self, questions: Sequence[Question | Prompted]) -> list[Answer]:
        """Answer questions, the windows of all of them planned together."""
        return self.way.run(questions)  # type: ignore[arg-type]  # ask gave them

    def run_pairs(self, pairs: Sequence[tuple[str, Contexts]]) -> list[Answer]:
        """Answer many questions, each from its own texts; texts that come again are encoded once.

        Raises:
            InputError: A question or a text cannot be used; names the index, and nothing is started.
        """
        sources: dict[str | int, Source] = {}
        asked = []
        for i, (question, contexts) in enumerate(pairs):
            key = contexts if isinstance(contexts, str) else id(contexts)
            try:
                if key not in sources:
                    sources[key] = self.read(contexts)
                asked.append(self.ask(question, sources[key]))
            except InputError as err:
                raise InputError(f"question {i}: {err}", hint=err.hint) from None
        return self.run(asked)


def prepare(model: Checkpoint | None, settings: Settings) -> Job:
    """Check the settings, and load the model where only its name is given.

    Raises:
        InputError: A setting is out of range, or is not for this kind of model.
    """
    asking.check_settings(settings)
    lm = load(model if model is not None else default_checkpoint("question-answering"), task=TASKS)
    if find_head(lm.model) == "generation":
        return Job(generated_answers.prepare(lm, settings))
    return Job(extracted_answers.prepare(lm, settings))
