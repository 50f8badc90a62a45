import json

import pytest
from conftest import byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer
from tokenizers import processors
from transformers import CTRLTokenizer

from llmkit.encoding import prompts
from llmkit.errors import InputError

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
USER = {"role": "user", "content": "hello"}


def bare(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def with_template(template):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def ending_tokenizer():
    """A tokenizer that closes each text with </s>, as T5's does."""
    tokenizer = fallback_tokenizer()
    closing = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = closing
    return tokenizer


def both_ends_tokenizer():
    """A tokenizer that wraps each text in <s> ... </s>, as XLM-R's does."""
    tokenizer = fallback_tokenizer()
    wrapping = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = wrapping
    return tokenizer


# --- texts


def test_encode_prompt_feeds_neither_cls_nor_sep_when_the_tokenizer_is_bert_like():
    tokenizer = wordpiece_tokenizer()
    assert tokenizer("今天")["input_ids"][::3] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert prompts.encode_prompt(tokenizer, "今天") == tokenizer.convert_tokens_to_ids(["今", "天"])


def test_encode_prompt_feeds_neither_cls_nor_sep_when_only_these_tokens_tell():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    wrapping = [("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=wrapping
    )
    assert tokenizer("Z")["input_ids"] == [tokenizer.cls_token_id, *bare(tokenizer, "Z"), tokenizer.sep_token_id]
    assert prompts.encode_prompt(tokenizer, "Z") == bare(tokenizer, "Z")


@pytest.mark.parametrize(
    ("make", "expected"), [(wordpiece_tokenizer, True), (byte_level_tokenizer, False), (fallback_tokenizer, False)]
)
def test_is_bert_like_goes_by_the_wordpiece_model(make, expected):
    tokenizer = make()
    assert prompts.is_bert_like(tokenizer) is expected


def test_is_bert_like_goes_by_the_wordpiece_model_when_the_special_tokens_have_other_names():
    tokenizer = wordpiece_tokenizer()
    tokenizer.cls_token, tokenizer.sep_token = "<s>", "</s>"
    assert prompts.is_bert_like(tokenizer) is True


def test_is_bert_like_goes_by_the_special_tokens_when_the_model_is_another():
    tokenizer = byte_level_tokenizer()
    tokenizer.cls_token, tokenizer.sep_token = "[CLS]", "[SEP]"
    assert prompts.is_bert_like(tokenizer) is True


def test_encode_prompt_keeps_special_tokens_that_stand_in_the_text():
    tokenizer = wordpiece_tokenizer()
    assert prompts.encode_prompt(tokenizer, "[CLS]今[SEP]") == tokenizer.convert_tokens_to_ids(["[CLS]", "今", "[SEP]"])


def test_encode_prompt_feeds_a_begin_that_the_tokenizer_adds():
    tokenizer = fallback_tokenizer()
    assert prompts.encode_prompt(tokenizer, "lo") == [1, *bare(tokenizer, "lo")]


def test_encode_prompt_feeds_no_end_that_the_tokenizer_adds():
    tokenizer = ending_tokenizer()
    assert tokenizer("lo")["input_ids"] == [*bare(tokenizer, "lo"), 2]
    assert prompts.encode_prompt(tokenizer, "lo") == bare(tokenizer, "lo")


def test_encode_prompt_feeds_the_begin_alone_when_the_tokenizer_adds_both_ends():
    tokenizer = both_ends_tokenizer()
    assert prompts.encode_prompt(tokenizer, "lo") == [1, *bare(tokenizer, "lo")]


@pytest.mark.parametrize("make", [ending_tokenizer, fallback_tokenizer])
def test_encode_prompt_keeps_an_end_that_stands_in_the_text(make):
    tokenizer = make()
    ids = prompts.encode_prompt(tokenizer, "lo</s>")
    assert ids == [*([1] if make is fallback_tokenizer else []), *bare(tokenizer, "lo"), 2]


def test_encode_prompt_takes_a_tokenizer_without_a_rust_backend(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "yo": 1}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\ny o</w>\n", encoding="utf-8")
    tokenizer = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert prompts.encode_prompt(tokenizer, "yo yo") == [1, 1]


def test_encode_prompt_says_nothing_about_a_long_text():
    tokenizer = with_template(TEMPLATE)
    tokenizer.model_max_length = 4
    prompts.encode_prompt(tokenizer, "hello " * 10)
    prompts.encode_prompt(tokenizer, [{"role": "user", "content": "hello " * 10}])
    assert tokenizer.deprecation_warnings == {}


# --- empty prompts


def test_encode_prompt_starts_from_bos_when_the_prompt_is_empty():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>", "cls_token": "<cls>"})
    assert prompts.encode_prompt(tokenizer, "") == [tokenizer.bos_token_id]


def test_encode_prompt_starts_from_bos_once_when_the_tokenizer_adds_it():
    assert prompts.encode_prompt(fallback_tokenizer(), "") == [1]


def test_encode_prompt_starts_from_cls_when_the_prompt_is_empty_and_there_is_no_bos():
    tokenizer = wordpiece_tokenizer()
    tokenizer.eos_token = "[SEP]"
    assert prompts.encode_prompt(tokenizer, "") == [tokenizer.cls_token_id]


def test_encode_prompt_starts_from_eos_when_the_prompt_is_empty_and_there_is_nothing_else():
    tokenizer = ending_tokenizer()
    tokenizer.bos_token = None
    assert prompts.encode_prompt(tokenizer, "") == [2]


def test_encode_prompt_refuses_an_empty_prompt_when_no_token_begins_a_text():
    tokenizer = byte_level_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(InputError) as caught:
        prompts.encode_prompt(tokenizer, "")
    assert str(caught.value) == "the prompt is empty and the tokenizer has no token to begin a text with"


# --- surrogates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udfff", "\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("中😀\ufffd", "中😀\ufffd"),
    ],
)
def test_encode_prompt_replaces_lone_surrogates(text, expected):
    tokenizer = with_template(TEMPLATE)
    chat = [{"role": "user", "content": text}]
    assert tokenizer.decode(prompts.encode_prompt(tokenizer, text)) == expected
    assert tokenizer.decode(prompts.encode_prompt(tokenizer, chat)) == f"<user>{expected}\n<assistant>"


# --- cut_left


def test_cut_left_keeps_the_last_ids():
    assert prompts.cut_left(byte_level_tokenizer(), [5, 6, 7, 8, 9], 3) == [7, 8, 9]


def test_cut_left_keeps_the_token_that_begins_the_text():
    assert prompts.cut_left(fallback_tokenizer(), [1, 6, 7, 8, 9], 3) == [1, 8, 9]


def test_cut_left_keeps_the_last_id_when_there_is_room_for_one():
    assert prompts.cut_left(fallback_tokenizer(), [1, 6, 7], 1) == [7]


def test_cut_left_keeps_all_when_it_fits():
    assert prompts.cut_left(fallback_tokenizer(), [1, 6, 7], 3) == [1, 6, 7]


# --- conversations


def test_encode_prompt_puts_a_conversation_through_the_chat_template():
    tokenizer = with_template(TEMPLATE)
    chat = [{"role": "system", "content": "be kind"}, USER, {"role": "assistant", "content": "yes"}, USER]
    text = "<system>be kind\n<user>hello\n<assistant>yes\n<user>hello\n<assistant>"
    assert prompts.encode_prompt(tokenizer, chat) == bare(tokenizer, text)


def test_encode_prompt_lets_the_template_alone_add_special_tokens():
    tokenizer = fallback_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    assert prompts.encode_prompt(tokenizer, [USER]) == [1, *bare(tokenizer, "hello")]


def test_encode_prompt_takes_a_tuple_of_messages():
    tokenizer = with_template(TEMPLATE)
    assert prompts.encode_prompt(tokenizer, (USER,)) == prompts.encode_prompt(tokenizer, [USER])


def test_encode_prompt_writes_a_plain_transcript_when_there_is_no_template():
    tokenizer = fallback_tokenizer()
    chat = [{"role": "system", "content": "be kind"}, USER, {"role": "assistant", "content": "yes"}, USER]
    text = "be kind\n\nUser: hello\nAssistant: yes\nUser: hello\nAssistant:"
    assert prompts.encode_prompt(tokenizer, chat) == [1, *bare(tokenizer, text)]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must\n  alternate') }}", "roles must alternate"),
        ("{{ messages[1].content }}", "list object has no element 1"),
        ("{% if %}", "Expected an expression, got 'end of statement block'"),
    ],
)
def test_encode_prompt_says_in_one_sentence_why_the_template_refuses(template, reason):
    with pytest.raises(InputError) as caught:
        prompts.encode_prompt(with_template(template), [USER])
    assert str(caught.value) == f"the chat template refuses the conversation: {reason}"


ROLE_AND_TEXT = "message 0 needs a role and a text as content, got "


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "the conversation is empty; expected at least one message"),
        (7, "a prompt must be a text or a list of messages, got int"),
        (None, "a prompt must be a text or a list of messages, got NoneType"),
        (USER, "a prompt must be a text or a list of messages, got dict"),
        ([7], ROLE_AND_TEXT + "7"),
        (["你好"], ROLE_AND_TEXT + '"你好"'),
        ([{"content": "x"}], ROLE_AND_TEXT + '{"content": "x"}'),
        ([{"role": "user"}], ROLE_AND_TEXT + '{"role": "user"}'),
        ([{"role": "user", "content": None}], ROLE_AND_TEXT + '{"role": "user", "content": null}'),
        ([{"role": "user", "content": ["x"]}], ROLE_AND_TEXT + '{"role": "user", "content": ["x"]}'),
        ([{"role": "bot", "content": "x"}], "message 0 has the role 'bot'; expected system, user, assistant"),
        ([USER, {"role": None, "content": "x"}], "message 1 has the role None; expected system, user, assistant"),
    ],
)
def test_encode_prompt_refuses_what_is_no_conversation(messages, sentence):
    with pytest.raises(InputError) as caught:
        prompts.encode_prompt(with_template(TEMPLATE), messages)
    assert str(caught.value) == sentence


# --- list_fields


@pytest.mark.parametrize("given", ["text:.5", "q!r", "q!s:>9", "q:{text}"])
def test_list_fields_refuses_a_format_which_would_be_left_out(given):
    with pytest.raises(InputError) as caught:
        prompts.list_fields(f"{{text}} {{{given}}}")
    name = given[: 4 if given.startswith("text") else 1]
    assert str(caught.value) == f"a template puts texts as they are, got {{{given}}}; expected {{{name}}}"


def test_list_fields_takes_braces_that_are_doubled_as_they_are():
    assert prompts.list_fields("{{a:.5}} {b.c} {d} {d}") == ["b.c", "d"]


# --- end_of_text


def test_end_of_text_is_eos():
    assert prompts.end_of_text(fallback_tokenizer()) == 2


def test_end_of_text_is_sep_when_there_is_no_eos():
    tokenizer = wordpiece_tokenizer()
    assert prompts.end_of_text(tokenizer) == tokenizer.sep_token_id


def test_end_of_text_is_none_when_there_is_neither():
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    assert prompts.end_of_text(tokenizer) is None
