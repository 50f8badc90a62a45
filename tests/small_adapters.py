"""Adapters of each method over tiny models, and a step of training."""

import torch

from llmkit import checking
from llmkit.loading import load, load_tokenizer
from llmkit.training import adapting, saving

ADALORA = {"peft_type": "ADALORA", "init_r": 6, "target_r": 3, "total_step": 8, "tinit": 1, "tfinal": 3, "deltaT": 1}
# name -> the adapter of a recipe
METHODS = {
    "lora": {"peft_type": "LORA", "r": 4, "lora_alpha": 8},
    "rslora": {"peft_type": "LORA", "r": 4, "use_rslora": True},
    "dora": {"peft_type": "LORA", "r": 4, "use_dora": True},
    "pissa": {"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa"},
    "pissa_niter_4": {"peft_type": "LORA", "r": 4, "use_rslora": True, "init_lora_weights": "pissa_niter_4"},
    "eva": {"peft_type": "LORA", "r": 2, "init_lora_weights": "eva"},
    "adalora": ADALORA,
    "ia3": {"peft_type": "IA3"},
    "vera": {"peft_type": "VERA", "r": 4},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
}
NO_MERGE = ("prefix", "prompt")
FAMILIES = {"gpt2": "byte-level", "llama": "fallback"}


def make_batch(seed=0, rows=4, length=16):
    ids = torch.randint(3, 290, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


def lay(base, method, *, seed=0, dtype="float32", **changes):
    """A base with a new adapter over it, begun as a run begins."""
    model = load(base, device="cpu", dtype=dtype).model
    wrapped = adapting.wrap(model, {**METHODS[method], **changes}, task="generation", seed=seed)
    adapting.initialize(wrapped, [make_batch(seed) for seed in range(3)])
    return wrapped.train()


def make_optimizer(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2, fused=True)


def train(model, optimizer, *steps):
    """Steps of a language model, as the loop takes them."""
    for step in steps:
        batch = make_batch(step)
        labels = batch.pop("labels")
        torch.manual_seed(step)  # of dropout
        logits = model(**batch).logits[:, -labels.shape[1] :]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        adapting.before_step(model)
        optimizer.step()
        adapting.after_step(model, step)
        optimizer.zero_grad()


def logits(model, seed=7, length=16):
    training = model.training
    with torch.no_grad():
        found = model.eval()(input_ids=make_batch(seed, length=length)["input_ids"]).logits[:, -length:]
    model.train(training)
    return found


def describe(base):
    """What llmkit.json and adapter_config.json say of a base folder."""
    facts = {"task": "generation", "base": str(base), "base_sha256": checking.hash_weights(base)}
    return facts, {"base_model_name_or_path": str(base)}


def store(model, base, folder, **facts):
    """Save an adapter as a run does."""
    known, config = describe(base)
    saving.save_checkpoint(folder, model, load_tokenizer(base), {**known, **facts}, base=config)
    return folder


def difference(one, other):
    """The greatest difference, relative to the greatest value."""
    return float(((one - other).abs().max() / other.abs().max().clamp(min=1e-30)).detach())
