"""The loss under accumulation: transformers' Trainer reports it four times too large for four classes, llmkit never."""

import pytest
import torch
from objective_recipes import BART, BERT, GPT2, T5
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    BartForConditionalGeneration,
    BertForMaskedLM,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from llmkit import runtime
from llmkit.training.objectives import OBJECTIVES

VOCABULARY, ROWS, LENGTH = 61, 8, 12
IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
WRONG = {
    "bert": (BertForMaskedLM, BERT, "masked-lm"),
    "t5": (T5ForConditionalGeneration, T5, "seq2seq"),
    "bart": (BartForConditionalGeneration, BART, "seq2seq"),
    "gpt2": (GPT2ForSequenceClassification, GPT2, "classification"),
}


class Rows(Dataset):
    """Rows of one length, so that the mean of the means is the mean."""

    def __init__(self, objective):
        generator = torch.Generator().manual_seed(0)
        self.rows = []
        for i in range(ROWS):
            ids = torch.randint(2, VOCABULARY, (LENGTH,), generator=generator)
            labels = torch.tensor(i % 2) if objective == "classification" else ids.clone()
            if objective == "causal-lm":
                labels[0] = -100  # which nothing predicts; the Trainer would count it
            self.rows.append({"input_ids": ids, "labels": labels})

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return self.rows[index]


class Losses(TrainerCallback):
    """Keeps what the Trainer logs."""

    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keep a loss."""
        if "loss" in (logs or {}):
            self.values.append(logs["loss"])


def make(kind):
    """A tiny model of a kind, the same each time."""
    known = {**WRONG, "gpt2 lm": (GPT2LMHeadModel, GPT2, "causal-lm")}
    build, shape, objective = known[kind]
    torch.manual_seed(0)
    return build(AutoConfig.for_model(**{**shape, **IDS})).float(), objective


def trainer_loss(kind, accumulation, folder):
    """The loss of one step that the Trainer reports."""
    model, objective = make(kind)
    kept = Losses()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=ROWS // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        learning_rate=0.0,
    )
    with runtime.quiet():
        trainer = Trainer(model=model, args=arguments, train_dataset=Rows(objective), callbacks=[kept])
        trainer.train()
    return kept.values[0]


def our_loss(kind, accumulation):
    """The loss of one step as the loop computes it."""
    model, name = make(kind)
    model.eval()
    objective, size = OBJECTIVES[name], ROWS // accumulation
    rows = Rows(name).rows
    parts = [{k: torch.stack([row[k] for row in rows[i : i + size]]) for k in rows[0]} for i in range(0, ROWS, size)]
    if name == "seq2seq":
        for part in parts:
            part["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(part["labels"])
    total = sum(objective.targets(part).numel() for part in parts)
    with torch.no_grad():
        return sum(float(objective.loss(model, part, total)) for part in parts)


@pytest.mark.parametrize("kind", WRONG)
def test_trainer_reports_four_times_the_loss_and_llmkit_the_loss(kind, tmp_path):
    assert trainer_loss(kind, 4, tmp_path) == pytest.approx(4 * trainer_loss(kind, 1, tmp_path), rel=1e-3)
    assert our_loss(kind, 4) == pytest.approx(our_loss(kind, 1), abs=1e-6)
    assert our_loss(kind, 1) == pytest.approx(trainer_loss(kind, 1, tmp_path), abs=1e-3)


def test_trainer_is_right_for_a_causal_lm(tmp_path):
    assert trainer_loss("gpt2 lm", 4, tmp_path) == pytest.approx(trainer_loss("gpt2 lm", 1, tmp_path), rel=1e-3)
    assert our_loss("gpt2 lm", 4) == pytest.approx(trainer_loss("gpt2 lm", 1, tmp_path), abs=1e-3)
