"""A small run: a recipe over a few made-up stories, trained in a second or two."""

import json

from conftest import TEXTS

STORY = "the sea was cold and grey so the captain said good morning to nobody 天气 很好 我们 去 公园"
WORDS = STORY.split()


def write_stories(path, count=120):
    """Write short documents of different lengths, the same each time."""
    lines = []
    for i in range(count):
        story = " ".join(WORDS[(i * 7 + j * (1 + i % 3)) % len(WORDS)] for j in range(5 + i * 13 % 40))
        lines.append(json.dumps({"text": f"{TEXTS[i % len(TEXTS)][: i % 50]} {story}."}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def merge(into, changes):
    """Merge nested mappings."""
    merged = dict(into)
    for key, value in changes.items():
        merged[key] = merge(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def small_recipe(stories, run, **changes):
    """A recipe as a mapping, with sections changed."""
    recipe = {
        "version": 1,
        "objective": "causal-lm",
        "seed": 3,
        "output_dir": str(run),
        "model": {
            "config": {
                "model_type": "gpt2",
                "n_layer": 1,
                "n_head": 2,
                "n_embd": 16,
                "n_positions": 32,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "attn_pdrop": 0.0,
            },
            "tokenizer": str(stories / "tokenizer"),
        },
        "data": {"path": str(stories / "stories.jsonl"), "max_length": 32},
        "optim": {"lr": 1e-2},
        "schedule": {"name": "constant"},
        "train": {"max_steps": 6, "global_batch_size": 8, "mixed_precision": "no"},
        "save": {"every_steps": 2, "keep": 2},
        "log": {"every_steps": 1},
    }
    return merge(recipe, changes)


def read_curve(run, key="loss"):
    """Read (step, value) of metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(d["step"], d[key]) for d in map(json.loads, lines) if key in d]
