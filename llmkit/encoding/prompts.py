"""From a prompt, a text or a conversation, to the ids that a causal language model continues."""

import itertools
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from llmkit.errors import InputError

Message = Mapping[str, str]
Prompt = str | Sequence[Message]

SURROGATE = re.compile("[\ud800-\udfff]")
ROLES = ("system", "user", "assistant")
# The transcript that stands in for a chat template where a base model has none; a new turn of the user ends the answer.
PLAIN_TURNS = {"system": "{}\n\n", "user": "User: {}\n", "assistant": "Assistant: {}\n"}
PLAIN_ANSWER = "Assistant:"
PLAIN_STOP = "\nUser:"
# A question for the label of a text, which goes on with it.
SENTIMENT_PLAIN = "Review: {}\nSentiment:"
LABEL_PLAIN = "Text: {}\nLabel:"
SENTIMENTS = {"negative", "neutral", "positive"}
# A question about a text: for a chat model after an example, which a small one needs to answer in words and not in
# sentences, and for one that only continues, which ends its answer with the line.
QUESTION_TURN = (
    "{context}\n\nQuestion: {question}\nAnswer with the shortest words that can be copied from the text above, and "
    "nothing else."
)
QUESTION_EXAMPLE = ("Anna lives in Rome and paints houses.", "Where does Anna live?", "Rome")
QUESTION_PLAIN = "{context}\n\nQuestion: {question}\nAnswer:"
# A line to translate, likewise; both end their answer with the line.
TRANSLATION_TURN = "Translate this text{source} to {target}. Answer with the translation alone.\n\n{text}"
TRANSLATION_PLAIN = "{source}: {text}\n{target}:"


def is_bert_like(tokenizer: Any) -> bool:
    """Tell whether a tokenizer is BERT's kind, as many Chinese GPT-2 checkpoints use it.

    Such a tokenizer wraps each text in [CLS] ... [SEP] and cuts words into ##pieces; recognised by these special tokens
    or by its WordPiece model, not by a class name.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and type(backend.model).__name__ == "WordPiece":
        return True
    return (tokenizer.cls_token, tokenizer.sep_token) == ("[CLS]", "[SEP]")


def end_of_text(tokenizer: Any) -> int | None:
    """Find the id that ends a text: end-of-text, or [SEP] where a tokenizer has none."""
    found = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return None if found is None else int(found)


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Encode a text, or a conversation through the checkpoint's chat template.

    Raises:
        InputError: The conversation is not a list of role and content, the template refuses it, or an empty prompt
            finds no token to start from.
    """
    ids = encode_text(tokenizer, prompt) if isinstance(prompt, str) else encode_chat(tokenizer, prompt)
    if ids:
        return ids
    start = start_token(tokenizer)
    if start is None:
        raise InputError("the prompt is empty and the tokenizer has no token to begin a text with")
    return [start]


def start_token(tokenizer: Any) -> int | None:
    """Find the id that a text may begin with where it is empty: begin-of-text, [CLS] or end-of-text."""
    candidates = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
    return next((int(i) for i in candidates if i is not None), None)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Encode a text that is to be continued: nothing that ends it is fed, whatever the tokenizer would add."""
    encoded = tokenizer(
        replace_surrogates(text),
        add_special_tokens=not is_bert_like(tokenizer),
        return_special_tokens_mask=True,
        verbose=False,
    )
    ids, added = encoded["input_ids"], encoded["special_tokens_mask"]
    end = len(ids)
    while end and added[end - 1]:  # an end that the tokenizer adds, as T5's and XLM-R's do
        end -= 1
    return [int(i) for i in ids[:end]]


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Encode a conversation up to where the assistant's next turn begins.

    Raises:
        InputError: A message lacks role or content, or the template refuses the conversation.
    """
    check_messages(messages)
    clean = [{**m, "content": replace_surrogates(m["content"])} for m in messages]
    if not tokenizer.chat_template:
        return encode_text(tokenizer, render_plain(clean))
    from jinja2 import TemplateError

    try:
        encoded = tokenizer.apply_chat_template(
            clean, add_generation_prompt=True, tokenize=True, return_dict=True, tokenizer_kwargs={"verbose": False}
        )
    except TemplateError as err:
        reason = " ".join(str(err).split())
        raise InputError(f"the chat template refuses the conversation: {reason}") from err
    return [int(i) for i in encoded["input_ids"]]


def render_plain(messages: Sequence[Message]) -> str:
    """Render a conversation as a transcript, for a base model without a chat template."""
    return "".join(PLAIN_TURNS[m["role"]].format(m["content"]) for m in messages) + PLAIN_ANSWER


def check_messages(messages: Sequence[Message]) -> None:
    """Check that each message has a role and a text.

    Raises:
        InputError: One has not, there are none, or they are not in a list.
    """
    if not isinstance(messages, Sequence):
        raise InputError(f"a prompt must be a text or a list of messages, got {type(messages).__name__}")
    if not messages:
        raise InputError("the conversation is empty; expected at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message or not isinstance(message.get("content"), str):
            shown = json.dumps(message, ensure_ascii=False, default=repr)[:80]
            raise InputError(f"message {i} needs a role and a text as content, got {shown}")
        if message.get("role") not in ROLES:
            raise InputError(f"message {i} has the role {message.get('role')!r}; expected {', '.join(ROLES)}")


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes, by U+FFFD; pairs become their character."""
    if not SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mask_surrogates(text: str) -> str:
    """Replace each surrogate by one U+FFFD, so that the places of all characters stay."""
    return SURROGATE.sub("\ufffd", text)


def list_fields(template: str) -> list[str]:
    """List the names that stand in braces in a template, each once; {{ and }} are braces themselves.

    Raises:
        InputError: It is not such a template, holds no name, or more than a name in braces.
    """
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as err:
        raise InputError(f"not a template: {err}; expected names in braces, as {{question}}") from None
    fields = [str(name) for _, name, _, _ in parts]
    if not fields or not all(fields):
        raise InputError(
            f"a template names no column, got {template[:60]!r}; expected names in braces, as {{question}}"
        )
    for name, (_, _, spec, conversion) in zip(fields, parts, strict=True):
        if spec or conversion:
            got = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise InputError(f"a template puts texts as they are, got {{{got[:60]}}}; expected {{{name}}}")
    return list(dict.fromkeys(fields))


def fill_template(template: str, texts: Mapping[str, str]) -> str:
    """Put texts in the place of the names in braces; a name may hold dots, which step nowhere here."""
    parts = string.Formatter().parse(template)
    return "".join(literal + (texts[name] if name is not None else "") for literal, name, _, _ in parts)


def ask(tokenizer: Any, text: str) -> Prompt:
    """Make a prompt of a text: the user's turn of a conversation where there is a chat template, else the text."""
    return [{"role": "user", "content": text}] if tokenizer.chat_template else text


def cut_left(tokenizer: Any, ids: list[int], keep: int) -> list[int]:
    """Keep the last ids of a prompt, and the token that begins a text where it begins with one."""
    if len(ids) <= keep:
        return ids
    if keep > 1 and ids[0] == tokenizer.bos_token_id:
        return [ids[0], *ids[len(ids) - keep + 1 :]]
    return ids[len(ids) - keep :]


def question_prompt(tokenizer: Any, question: str, context: str, template: str | None = None) -> Prompt:
    """Ask a question about a text: as a turn for the chat template where there is one, else as a text to continue.

    `template` is the one that a model was trained with, which needs no example.
    """
    if template is not None:
        return ask(tokenizer, fill_template(template, {"question": question, "context": context}))
    if not tokenizer.chat_template:
        return QUESTION_PLAIN.format(context=context, question=question)
    text, asked, answer = QUESTION_EXAMPLE
    return [
        {"role": "user", "content": QUESTION_TURN.format(context=text, question=asked)},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": QUESTION_TURN.format(context=context, question=question)},
    ]


def classification_prompt(tokenizer: Any, text: str, labels: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Encode a text and the word before its label, and each label as it goes on.

    A plain text, for chat models too: their answer begins as they please, while its first word must be the label. Text
    and label are encoded together, since a token may hold the end of one and the beginning of the other; the prompt is
    what all have in common.
    """
    plain = SENTIMENT_PLAIN if {label.lower() for label in labels} <= SENTIMENTS else LABEL_PLAIN
    prompt = plain.format(text)
    wholes = [encode_text(tokenizer, prompt), *(encode_text(tokenizer, f"{prompt} {label}") for label in labels)]
    columns = zip(*wholes, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    return wholes[0][:common], [whole[common:] for whole in wholes[1:]]


def translation_prompt(tokenizer: Any, text: str, source: str | None, target: str) -> Prompt:
    """Ask for a translation: as a turn for the chat template where there is one, else as a text to continue.

    `source` and `target` are the names of the languages; without a source the model has to find it out.
    """
    if tokenizer.chat_template:
        origin = f" from {source}" if source is not None else ""
        return [{"role": "user", "content": TRANSLATION_TURN.format(source=origin, target=target, text=text)}]
    return TRANSLATION_PLAIN.format(source=source or "Text", target=target, text=text)
