"""What a model is for, by the name of its class, and how long a sequence it can take."""

from typing import Any

# task -> the class of transformers that loads a model for it
AUTO_CLASSES = {
    "generation": "AutoModelForCausalLM",
    "translation": "AutoModelForSeq2SeqLM",
    "question-answering": "AutoModelForQuestionAnswering",
    "classification": "AutoModelForSequenceClassification",
    "masked-lm": "AutoModelForMaskedLM",
}
# the end of an architecture's name -> the task it was saved for
HEADS = {
    "LMHeadModel": "generation",
    "ForCausalLM": "generation",
    "ForConditionalGeneration": "translation",
    "MTModel": "translation",
    "EncoderDecoderModel": "translation",
    "ForQuestionAnswering": "question-answering",
    "ForSequenceClassification": "classification",
    "ForMaskedLM": "masked-lm",
}
NO_LIMIT = 1_000_000  # a tokenizer without a limit states a larger one
# model types whose positions begin after the padding id
FROM_PADDING = {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm"}
FROM_PADDING |= {"xlm-roberta", "xlm-roberta-xl", "xmod", "lilt", "luke"}


def match_head(architecture: str) -> str | None:
    """Find the task that an architecture, as config.json names it, was saved for; None where the name tells none."""
    return next((task for end, task in HEADS.items() if architecture.endswith(end)), None)


def find_head(model: Any) -> str | None:
    """Find the task that a model's head is for, by the name of its class; None where it tells none."""
    return match_head(type(unwrap(model)).__name__)


def unwrap(model: Any) -> Any:
    """Return the model under a peft adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def context_length(config: Any) -> int | None:
    """Find the longest sequence that a model can take, in tokens; None where positions have no end (ALiBi, T5).

    A T5 config may state n_positions all the same: the length that it was trained with.

    RoBERTa's kind counts positions from the padding id on, so that its table holds more rows than a sequence tokens
    (`create_position_ids_from_input_ids` in transformers 5.23).
    """
    for key in ("max_position_embeddings", "n_positions"):
        if key == "n_positions" and hasattr(config, "relative_attention_num_buckets"):
            continue
        if isinstance(value := getattr(config, key, None), int) and value > 0:
            counts_from_padding = config.model_type in FROM_PADDING
            return value - (config.pad_token_id or 0) - 1 if counts_from_padding else value
    return None


def stated_length(tokenizer: Any) -> int | None:
    """Return the longest sequence that a tokenizer states, in tokens; None where it states none (1e30)."""
    stated = tokenizer.model_max_length
    return stated if isinstance(stated, int) and 0 < stated < NO_LIMIT else None
