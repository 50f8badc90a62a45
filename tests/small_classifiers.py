"""Tiny models with a classification head."""

import torch
from conftest import byte_level_tokenizer, fallback_tokenizer, wordpiece_tokenizer

from llmkit import Loaded

NLI = {"label2id": {"contradiction": 0, "neutral": 1, "ENTAILMENT": 2}}
NLI["id2label"] = {i: label for label, i in NLI["label2id"].items()}
SHAPES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
}
TOKENIZERS = {"bert": wordpiece_tokenizer, "fnet": wordpiece_tokenizer, "llama": fallback_tokenizer}


def make(kind, *, labels=("negative", "neutral", "positive"), tokenizer=None, scale=0.4, **changes):
    """A tiny model of a kind with a classification head and random weights."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = tokenizer or TOKENIZERS.get(kind, byte_level_tokenizer)()
    shape = {"max_position_embeddings": 64, "pad_token_id": 1 if kind == "roberta" else 0, **SHAPES[kind]}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    config = AutoConfig.for_model(kind, **{**shape, "vocab_size": len(tokenizer), **names, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, scale)
    return Loaded(model.eval(), tokenizer, "tiny")
