"""Recipes for tests: small texts, and strategies that make any valid recipe and damage it."""

import copy

from hypothesis import strategies as st

SMALL = """\
version: 1
objective: causal-lm
model:
  config: {model_type: gpt2, n_layer: 2}
  tokenizer: tok
data:
  path: a.jsonl
train:
  max_steps: 12
"""

texts = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
    st.sampled_from(
        [
            "no",
            "null",
            "~",
            "1e3",
            ".5e3",
            "0o7",
            "1_0",
            "2026-01-01",
            "=",
            "<<",
            "- a",
            "a: b",
            "a #b",
            " x ",
            "今天",
            "\n",
            "😀",
            "'",
            '"',
        ]
    ),
)
counts = st.integers(1, 10**12)
floats = st.floats(1e-300, 1e300, allow_nan=False)
shares = st.floats(0, 1)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False), texts)
free = st.dictionaries(
    texts,
    st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
        max_leaves=5,
    ),
    max_size=3,
)


def some(**keys):
    """Any part of some keys."""
    return st.fixed_dictionaries({}, optional=keys)


source = {
    "text_column": texts,
    "column_names": st.lists(texts, max_size=3),
    "sample_by": st.sampled_from(["line", "paragraph", "document"]),
    "encoding": texts,
    "clean": some(
        markdown=st.booleans(),
        code=st.booleans(),
        urls=st.booleans(),
        unwrap=st.booleans(),
        min_han_share=shares,
        min_paragraph_chars=counts,
    ),
    "origin": texts,
    "license": texts,
}
hub_ids = st.sampled_from(["user/corpus", "corpus"])
sections = {
    "model": st.one_of(
        some(revision=texts, kwargs=free).map(lambda keys: {"name": "user/model", **keys}),
        free.map(lambda config: {"config": {**config, "model_type": "gpt2"}}),
    ),
    "data": st.one_of(
        some(**source, name=texts, train_split=texts, kwargs=free).map(lambda keys: {"path": "user/corpus", **keys}),
        st.lists(
            some(**source, name=texts, train_split=texts, kwargs=free).map(lambda k: {"path": "b", **k}),
            min_size=1,
            max_size=3,
        ).map(lambda mix: {"mix": mix}),
    ),
    "optim": some(
        name=texts, lr=floats, weight_decay=floats, betas=st.lists(shares, min_size=2, max_size=2), kwargs=free
    ),
    "schedule": some(name=st.sampled_from(["cosine", "linear"]), num_warmup_steps=st.integers(0, 10), kwargs=free),
    "train": st.one_of(
        st.fixed_dictionaries({"max_steps": st.integers(100, 10**12)}), st.fixed_dictionaries({"num_epochs": counts})
    ).flatmap(
        lambda length: some(
            micro_batch_size=st.sampled_from([1, 2, 4, 8, 16, 32]),
            mixed_precision=st.sampled_from(["no", "bf16"]),
            max_grad_norm=st.one_of(floats, st.just(float("inf"))),
            gradient_checkpointing=st.booleans(),
            compile=st.booleans(),
            threads=st.integers(1, 1024),
        ).map(lambda keys: {**length, **keys})
    ),
    "eval": some(every_steps=st.integers(1, 100), num_batches=counts, generate=st.lists(texts, max_size=3)),
    "save": some(dtype=st.sampled_from(["float32", "bfloat16"]), every_steps=counts, keep=counts),
    "log": some(every_steps=counts, to=st.just(["jsonl", "tensorboard"])),
}
more_data = some(
    max_length=counts,
    on_long=st.sampled_from(["error", "cut", "split", "drop"]),
    on_bad=st.sampled_from(["error", "skip"]),
    pack=st.booleans(),
    end_of_text=st.booleans(),
    num_workers=st.integers(0, 9),
)


def hold_out(data):
    """Hold rows or, where the data say so in their num_workers, documents out of them or of their last source."""
    if data.get("num_workers", 0) % 2 == 0:
        return {"eval_rows": 5, **data}
    if "mix" in data:
        return {**data, "mix": [*data["mix"][:-1], {**data["mix"][-1], "eval_documents": 5}]}
    return {"eval_documents": 5, **data}


mappings = st.fixed_dictionaries(
    {"version": st.just(1), "objective": st.just("causal-lm"), "more": more_data, **sections},
    optional={"seed": st.integers(0, 2**31 - 1), "output_dir": texts, "about": texts},
).map(lambda m: {**{k: v for k, v in m.items() if k != "more"}, "data": hold_out({**m["data"], **m["more"]})})

odd = st.one_of(
    scalars,
    st.sampled_from(
        [
            -1,
            0,
            2.5,
            True,
            float("nan"),
            float("inf"),
            10**9,
            10**13,
            "fast",
            "",
            [],
            {},
            [[]],
            {"a": None},
            "x" * 5000,
            10**300,
        ]
    ),
    free,
    st.lists(scalars, max_size=3),
)
words = st.one_of(
    texts,
    st.sampled_from(
        ["lr", "path", "mix", "name", "config", "extends", "max_steps", "num_epochs", "eval_rows", "kwargs", "origin"]
    ),
)


@st.composite
def damaged(draw):
    """A mapping with one to six of its keys changed, added, renamed or taken out."""
    whole = copy.deepcopy(draw(mappings))
    for _ in range(draw(st.integers(1, 6))):
        spot = whole
        while True:
            inner = [
                value
                for value in (spot.values() if isinstance(spot, dict) else spot)
                if isinstance(value, dict | list) and value
            ]
            if not inner or draw(st.integers(0, 3)) == 0:
                break
            spot = draw(st.sampled_from(inner))
        if isinstance(spot, list):
            spot[draw(st.integers(0, len(spot) - 1))] = copy.deepcopy(draw(odd))
        elif spot and draw(st.booleans()):
            key = draw(st.sampled_from(sorted(spot)))
            value = spot.pop(key)
            how = draw(st.integers(0, 2))
            if how == 0:
                spot[key] = copy.deepcopy(draw(odd))
            elif how == 1:
                at = draw(st.integers(0, len(key)))
                spot[key[:at] + draw(texts) + key[at + 1 :]] = value
        else:
            spot[draw(words)] = copy.deepcopy(draw(odd))
    return whole
