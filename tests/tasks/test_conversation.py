import pytest

from llmkit import InputError, Loaded
from llmkit.encoding.prompts import encode_prompt
from llmkit.tasks.conversation import fit_history
from llmkit.tasks.generation import prepare

SYSTEM = {"role": "system", "content": "Zq"}


def user(length):
    """A user's message of so many characters, a token each."""
    return {"role": "user", "content": "Z" * length}


def assistant(length):
    return {"role": "assistant", "content": "q" * length}


@pytest.fixture
def job(loaded):
    """A job whose context holds 64 tokens; 48 of them may be the conversation's."""
    return with_template(loaded("gpt2"), "{% for m in messages %}{{ m.content }}{% endfor %}")


def with_template(lm, template):
    tokenizer = lm.tokenizer.__class__(tokenizer_object=lm.tokenizer.backend_tokenizer)
    tokenizer.chat_template = template
    return prepare(Loaded(lm.model, tokenizer), {})


def test_fit_history_keeps_what_fits(job):
    messages = [SYSTEM, user(10), assistant(10), user(26)]
    assert len(encode_prompt(job.lm.tokenizer, messages)) == 48
    assert fit_history(job, messages) == (messages, 0)


def test_fit_history_drops_the_oldest_turn_with_its_answer(job):
    messages = [user(10), assistant(10), user(10), assistant(10), user(9)]
    assert fit_history(job, messages) == (messages[2:], 2)


def test_fit_history_drops_as_many_turns_as_it_must(job):
    messages = [user(10), assistant(10), user(10), assistant(10), user(30)]
    assert fit_history(job, messages) == (messages[4:], 4)


def test_fit_history_keeps_the_system_message(job):
    messages = [SYSTEM, user(20), assistant(10), user(10), assistant(10), user(9)]
    assert fit_history(job, messages) == ([SYSTEM, *messages[3:]], 2)


def test_fit_history_drops_a_turn_alone_when_it_has_no_answer(job):
    messages = [user(20), user(20), user(9)]
    assert fit_history(job, messages) == (messages[1:], 1)


def test_fit_history_keeps_the_newest_message_when_it_leaves_less_than_a_quarter(job):
    messages = [SYSTEM, user(10), assistant(10), user(61)]
    assert fit_history(job, messages) == ([SYSTEM, user(61)], 2)


@pytest.mark.parametrize(("system", "length"), [([], 64), ([SYSTEM], 62)])
def test_fit_history_refuses_a_newest_message_that_leaves_no_room(job, system, length):
    with pytest.raises(InputError) as caught:
        fit_history(job, [*system, user(10), assistant(10), user(length)])
    assert str(caught.value) == "the message has 64 tokens, the context holds 64 with the answer"


def test_fit_history_leaves_the_messages_it_was_given_as_they_were(job):
    messages = [user(30), assistant(10), user(30)]
    fit_history(job, messages)
    assert messages == [user(30), assistant(10), user(30)]


def test_fit_history_counts_what_the_template_adds(loaded):
    job = with_template(loaded("gpt2"), "{% for m in messages %}{{ m.content }}JJJJJJJJ{% endfor %}")
    messages = [user(10), assistant(10), user(10)]
    assert fit_history(job, messages) == (messages[2:], 2)


def test_fit_history_keeps_all_when_the_context_has_no_end(loaded):
    job = with_template(loaded("bloom"), "{% for m in messages %}{{ m.content }}{% endfor %}")
    messages = [user(1000), assistant(1000), user(1000)]
    assert fit_history(job, messages) == (messages, 0)
