"""Tiny models with a head for question answering, and the search that theirs is compared with."""

import functools
import json

import numpy as np
import torch
from conftest import TEXTS, byte_level_tokenizer, wordpiece_tokenizer
from tokenizers import Tokenizer, models, processors
from transformers import AutoConfig, AutoModelForQuestionAnswering, BertTokenizer, PreTrainedTokenizerFast

from llmkit import Loaded

SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
SHAPES = {
    "bert": {**SHAPE, "max_position_embeddings": 128},
    "roberta": {**SHAPE, "max_position_embeddings": 130, "pad_token_id": 1, "type_vocab_size": 1},
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128, "pad_token_id": None},
    "t5": {
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "decoder_start_token_id": 0,
    },
}


def roberta_tokenizer():
    """A byte-level BPE whose tokens begin with their space, between <s> and </s>, with two </s> between a pair."""
    trained = json.loads(byte_level_tokenizer(600).backend_tokenizer.to_str())
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    begin, end = (("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>")))
    tokenizer.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", sep_token="</s>", eos_token="</s>",
        pad_token="<pad>",
    )  # fmt: skip


def t5_tokenizer():
    """One that ends each text with </s> and has no token at the beginning."""
    tokenizer = Tokenizer.from_str(byte_level_tokenizer(600).backend_tokenizer.to_str())
    tokenizer.add_special_tokens(["</s>", "<pad>"])
    end = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[end]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def unigram_tokenizer():
    """One with a ▁ before each word, as XLM-R's kind; its first ▁ stands nowhere in the text."""
    from tokenizers import pre_tokenizers

    letters = sorted({c for c in "".join(TEXTS) if not c.isspace()})
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -3.0)]
    vocab += [("▁the", -2.0), ("▁a", -2.5), ("ing", -2.6), *((c, -4.0) for c in letters)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


TOKENIZERS = {
    "bert": wordpiece_tokenizer,
    "roberta": roberta_tokenizer,
    "gpt2": functools.partial(byte_level_tokenizer, 600),
    "t5": t5_tokenizer,
}


@functools.cache
def qa_model(family, dtype=torch.float64):
    """A Loaded of a family with random weights, large enough that its choices are clear."""
    return with_tokenizer(family, TOKENIZERS[family](), dtype)


def with_tokenizer(family, tokenizer, dtype=torch.float64, **shape):
    """The same with a tokenizer of one's own."""
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **{**SHAPES[family], **shape})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForQuestionAnswering.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 1.0 if "embed" in name or "wte" in name or "shared" in name else 0.4)
    return Loaded(model.to(dtype).eval(), tokenizer, family)


def read_questions(path, count):
    """So many questions of a SQuAD file and their texts, spread over it."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    rows = [(q["question"], p["context"]) for a in articles for p in a["paragraphs"] for q in p["qas"]]
    return rows[:: len(rows) // count][:count]


def chinese_tokenizer(data):
    """The tokenizer of bert-base-chinese, whose vocabulary has English pieces too."""
    words = (data / "tokenizers/bert-base-chinese/vocab.txt").read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True)


def search_all(lm, question, texts, *, top, max_tokens, max_length, stride):
    """Answer by brute force: the tokenizer's own windows, one forward each, all spans of all windows.

    Returns the best spans without overlaps as (text, start, end, score), and the probability of no answer.
    """
    tokenizer, found, starts, ends, nulls = lm.tokenizer, [], [], [], []
    for n, text in enumerate(texts):
        encoded = tokenizer(
            question, text, truncation="only_second", max_length=max_length, stride=stride,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        for w, ids in enumerate(encoded["input_ids"]):
            given = {"input_ids": torch.tensor([ids])}
            if lm.model.config.model_type == "bert":
                given["token_type_ids"] = torch.tensor([encoded["token_type_ids"][w]])
            with torch.inference_mode():
                out = lm.model(**given)
            start, end = out.start_logits[0].numpy(), out.end_logits[0].numpy()
            sequences = encoded.sequence_ids(w)
            inside = np.array([i for i, s in enumerate(sequences) if s == 1])
            null = [i for i, s in enumerate(sequences) if s is None and ids[i] == tokenizer.cls_token_id][:1]
            starts.append(start[[*inside, *null]])
            ends.append(end[[*inside, *null]])
            nulls += [start[i] + end[i] for i in null]
            first, last = np.meshgrid(inside, inside, indexing="ij")
            fits = (first <= last) & (last < first + max_tokens)
            first, last, places = first[fits], last[fits], np.array(encoded["offset_mapping"][w])
            found.append(np.stack([-(start[first] + end[last]), 0 * first + n, places[first, 0], places[last, 1]]))
    total = sum(torch.tensor(np.concatenate(side)).logsumexp(0) for side in (starts, ends))
    spans, chosen = np.concatenate(found, axis=1), []
    for cost, *where in spans[:, np.lexsort(spans[::-1])].T:
        n, begin, end = map(int, where)
        words = texts[n][begin:end]
        begin += len(words) - len(words.lstrip())
        end = begin + len(words.strip())
        if begin < end and all(n != c[0] or end <= c[1] or begin >= c[2] for c in chosen):
            chosen.append((n, begin, end, float((-cost - total).exp())))
        if len(chosen) == top:
            break
    return chosen, float((min(nulls) - total).exp()) if nulls else None
