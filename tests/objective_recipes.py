"""A tiny recipe of each objective over made-up data, float64 and without dropout unless a test changes it."""

import json

from conftest import SHAPES as CAUSAL_SHAPES
from conftest import byte_level_tokenizer, wordpiece_tokenizer
from qa_models import SHAPES, t5_tokenizer
from small_runs import merge, write_stories

WORDS = ["the", "sea", "was", "cold", "and", "grey", "so", "captain", "said", "good", "morning", "to", "nobody"]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LLAMA = {"model_type": "llama", **CAUSAL_SHAPES["llama"], "tie_word_embeddings": True}
BERT = {"model_type": "bert", **SHAPES["bert"], **NO_DROPOUT}
T5 = {"model_type": "t5", **SHAPES["t5"], "dropout_rate": 0.0}
BART = {"model_type": "bart", "d_model": 32, "max_position_embeddings": 64, "decoder_start_token_id": 0, "dropout": 0.0}
BART |= {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
         {"layers": 1, "attention_heads": 2, "ffn_dim": 64}.items()}  # fmt: skip
KINDS = ("causal-lm", "completion", "masked-lm", "seq2seq", "denoising", "classification", "question-answering")


def sentence(i, length):
    """Words that depend on a number."""
    return " ".join(WORDS[(i * 5 + j * (1 + i % 3)) % len(WORDS)] for j in range(length))


def write_rows(path, rows):
    """Write records as lines of JSON."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_squad(path, count=24):
    """Write questions whose answer is a word of the text, for one window or several; every sixth has none."""
    entries = []
    for i in range(count):
        context = f"{sentence(i, 6)} {'天气' if i % 4 == 0 else 'weather'}{i} {sentence(i + 1, 3 + 9 * (i % 5))}."
        answer = context.split()[6]
        found = [] if i % 6 == 5 else [{"text": answer, "answer_start": context.index(answer)}]
        question = {"id": str(i), "question": "what stands after six words?", "answers": found}
        entries.append({"context": context, "qas": [{**question, "is_impossible": not found}]})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": entries}]}), encoding="utf-8")
    return path


def seq2seq_tokenizer(sentinels=0):
    """T5's kind, with sentinels or without."""
    tokenizer = t5_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra_id_{i}>" for i in range(sentinels)]})
    return tokenizer


def write_data(kind, folder):
    """Write the data and the tokenizer of a kind; give the sections that name them."""
    lengths = [3 + 7 * i % 31 for i in range(48)]
    rows = [{"text": sentence(i, n), "label": i % 2, "n": n} for i, n in enumerate(lengths)]
    data, tokenizer, model = {}, wordpiece_tokenizer(), {"config": BERT}
    if kind == "causal-lm":
        data = {"path": str(write_stories(folder / "s.jsonl"))}
        tokenizer, model = byte_level_tokenizer(), {"config": GPT2}
    elif kind == "completion":
        pairs = [{"ask": f"{row['text']}?", "say": sentence(i + 1, 1 + i % 4)} for i, row in enumerate(rows)]
        data = {"path": str(write_rows(folder / "c.jsonl", pairs)), "on_long": "cut"}
        data |= {"template": "Q: {ask} A:", "completion_column": "say"}
        tokenizer, model = byte_level_tokenizer(), {"config": GPT2}
    elif kind == "masked-lm":
        data = {"path": str(write_rows(folder / "m.jsonl", rows)), "on_long": "split"}
    elif kind == "seq2seq":
        pairs = [{"source": row["text"], "target": sentence(i + 2, 2 + i % 5)} for i, row in enumerate(rows)]
        data = {"path": str(write_rows(folder / "p.jsonl", pairs)), "max_length": 128}
        tokenizer, model = seq2seq_tokenizer(), {"config": T5}
    elif kind == "denoising":
        data = {"path": str(write_rows(folder / "d.jsonl", rows)), "denoising": {}}
        data |= {"max_length": 48, "on_long": "split"}
        tokenizer, model = seq2seq_tokenizer(100), {"config": T5}
    elif kind == "classification":
        told = [{**row, "text": " ".join([("cold", "good")[row["label"]]] * 9)} for row in rows]
        data, model = {"path": str(write_rows(folder / "l.jsonl", told))}, {**model, "labels": ["bad", "good"]}
    else:
        data = {"path": str(write_squad(folder / "q.json")), "max_length": 48, "stride": 8}
    tokenizer.save_pretrained(folder / "tokenizer")
    return {"data": data, "model": {**model, "tokenizer": str(folder / "tokenizer"), "dtype": "float64"}}


def objective_recipe(kind, folder, **changes):
    """A recipe of a kind as a mapping, with sections changed; its data lie in the folder."""
    objective = {"completion": "causal-lm", "denoising": "seq2seq"}.get(kind, kind)
    recipe = {
        "version": 1,
        "objective": objective,
        "seed": 5,
        "output_dir": str(folder / "run"),
        **write_data(kind, folder),
        "optim": {"lr": 5e-3},
        "schedule": {"name": "constant"},
        "train": {"max_steps": 4, "global_batch_size": 8},
        "log": {"every_steps": 1},
    }
    return merge(recipe, changes)
