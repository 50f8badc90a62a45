"""Bad input, row by row: one sentence on stderr, the exit code, nothing on stdout, nothing changed on disk.

A row is (name, setup, arguments, exit code, sentence). `setup` prepares files in the working folder; `{tiny}` in the
arguments stands for a tiny checkpoint of generation. The sentence is a regular expression for all that stands after
`llmkit: error: `.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

Files = pathlib.Path


def nothing(folder: Files, tiny: Files) -> None:
    """The call alone is what is wrong."""


def copy(folder: Files, tiny: Files) -> Files:
    return pathlib.Path(shutil.copytree(tiny, folder / "ck"))


def without(*names: str):
    def setup(folder: Files, tiny: Files) -> None:
        for name in names:
            (copy(folder, tiny) if not (folder / "ck").exists() else folder / "ck").joinpath(name).unlink()

    return setup


def with_file(name: str, content: bytes | str):
    def setup(folder: Files, tiny: Files) -> None:
        path = copy(folder, tiny) / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return setup


def with_config(**changes: object):
    def setup(folder: Files, tiny: Files) -> None:
        path = copy(folder, tiny) / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    return setup


def pickled(folder: Files, tiny: Files) -> None:
    without("model.safetensors")(folder, tiny)
    (folder / "ck" / "pytorch_model.bin").write_bytes(b"x")


def truncated(folder: Files, tiny: Files) -> None:
    path = copy(folder, tiny) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def missing_shard(folder: Files, tiny: Files) -> None:
    without("model.safetensors")(folder, tiny)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "ck" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def not_finite(folder: Files, tiny: Files) -> None:
    path = copy(folder, tiny) / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.ln_f.bias"][3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


def flipped_bit(folder: Files, tiny: Files) -> None:
    path = copy(folder, tiny) / "model.safetensors"
    content = bytearray(path.read_bytes())
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.with_name("manifest.json").write_text(json.dumps({"files": {path.name: entry}}), encoding="utf-8")
    content[-1] ^= 1
    path.write_bytes(content)


def adapter(inputs: int = 32, layers: tuple[int, ...] = (0, 1), facts: dict[str, str] | None = None):
    """A LoRA adapter for the attention of a tiny GPT-2, whose c_attn takes 32 inputs and gives 96 outputs."""

    def setup(folder: Files, tiny: Files) -> None:
        (folder / "ad").mkdir()
        config = {"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"], "base_model_name_or_path": "none/here"}
        (folder / "ad" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        if facts is not None:
            (folder / "ad" / "llmkit.json").write_text(json.dumps(facts), encoding="utf-8")
        tensors = {}
        for layer in layers:
            name = f"base_model.model.transformer.h.{layer}.attn.c_attn"
            tensors[f"{name}.lora_A.weight"] = np.zeros((2, inputs), np.float32)
            tensors[f"{name}.lora_B.weight"] = np.zeros((96, 2), np.float32)
        save_file(tensors, folder / "ad" / "adapter_model.safetensors")

    return setup


def pipe(folder: Files, tiny: Files) -> None:
    os.mkfifo(folder / "in")


def large_vocabulary(folder: Files, tiny: Files) -> None:
    path = copy(folder, tiny) / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 999, "content": "<|more|>"})
    path.write_text(json.dumps(content), encoding="utf-8")


def text_file(name: str, content: bytes | str):
    def setup(folder: Files, tiny: Files) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return setup


def a_folder(name: str):
    def setup(folder: Files, tiny: Files) -> None:
        (folder / name).mkdir()

    return setup


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
GENERATE = ("generate", "hi", "-m", "{tiny}")
CHECKPOINT = ("generate", "hi", "-m", "ck")

PRETRAIN = ("pretrain", "r.yaml", "model.tokenizer={tiny}")
TOKENIZER = ("data", "tokenizer", "in.txt", "-o", "tok")
COPY = ("recipes", "copy", "shakespeare-small")
RECIPE = """version: 1
objective: causal-lm
output_dir: run
model: {config: {model_type: gpt2, n_layer: 1, n_head: 2, n_embd: 16, n_positions: 32}, tokenizer: tok}
data: {path: t.jsonl}
train: {max_steps: 2, global_batch_size: 1, mixed_precision: "no"}
"""


def recipe(text: bytes | str = '{"text": "a story"}\n'):
    def setup(folder: Files, tiny: Files) -> None:
        (folder / "r.yaml").write_text(RECIPE, encoding="utf-8")
        (folder / "t.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / "full").mkdir()
        (folder / "full" / "mine").write_text("mine", encoding="utf-8")

    return setup


def pipe_as_data(folder: Files, tiny: Files) -> None:
    recipe()(folder, tiny)
    (folder / "t.jsonl").unlink()
    os.mkfifo(folder / "t.jsonl")


FINETUNE = ("finetune", "r.yaml", "model.name={tiny}")
EXAMPLES = """version: 1
objective: {}
output_dir: run
model: {{dtype: float32}}
data: {{path: t.jsonl}}
train: {{max_steps: 2, global_batch_size: 1, mixed_precision: "no"}}
"""


def examples(objective: str, *rows: dict[str, object]):
    """A recipe of an objective over rows of columns."""

    def setup(folder: Files, tiny: Files) -> None:
        (folder / "r.yaml").write_text(EXAMPLES.format(objective), encoding="utf-8")
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "t.jsonl").write_text(lines, encoding="utf-8")

    return setup


def labelled(*labels: object):
    return examples("classification", *({"text": "a story", "label": label} for label in labels))


def asked(answer: str, start: int | None):
    """Questions of which the second has this answer at this place."""
    context = "The captain said nothing. 他什么也没说。"
    right = {"text": ["captain"], "answer_start": [4]}
    wrong = {"text": [answer], "answer_start": [start]}
    return examples(
        "question-answering",
        *({"question": "who?", "context": context, "answers": answers} for answers in (right, wrong)),
    )


TRANSLATE = ("translate", "hi", "-m", "{tiny}")
ANSWER = ("-m", "{tiny}", "-c", "c.txt")
CONTEXT = text_file("c.txt", "The captain said nothing. 他什么也没说。")
SENTIMENT = ("sentiment", "hi", "-m", "{tiny}")
EVALUATE = ("evaluate", "{tiny}", "--on")

ROWS = [
    # the name of a checkpoint
    ("no checkpoint named", nothing, ("chat", "hi"), 2, r"chat needs a checkpoint, got none; expected -m .*"),
    (
        "adapter without a checkpoint",
        nothing,
        ("generate", "hi", "-a", "adapter"),
        2,
        r"an adapter needs the checkpoint that it was made for, got none; expected -m CHECKPOINT",
    ),
    ("missing run", nothing, ("generate", "hi", "-m", "runs/none"), 2, r"no such checkpoint: runs/none"),
    ("missing folder", nothing, ("generate", "hi", "-m", "./nowhere"), 2, r"no such checkpoint: \./nowhere"),
    ("deep missing path", nothing, ("generate", "hi", "-m", "a/b/c"), 2, r"no such checkpoint: a/b/c"),
    ("not a name", nothing, ("generate", "hi", "-m", "what?"), 2, r"not a checkpoint, got 'what\?'; expected .*"),
    ("empty name", nothing, ("generate", "hi", "-m", ""), 2, r"not a checkpoint, got ''; expected .*"),
    (
        "unknown built-in",
        nothing,
        ("generate", "hi", "-m", "builtin/x"),
        2,
        r"no built-in checkpoint 'x'; built in are: .*",
    ),
    ("unknown package", nothing, ("generate", "hi", "-m", "package:no-such"), 2, r"no installed package 'no-such'"),
    (
        "package without model",
        nothing,
        ("generate", "hi", "-m", "package:typer"),
        2,
        r"package 'typer' holds no checkpoint; .*",
    ),
    ("hub id offline", nothing, ("generate", "hi", "-m", "some/model"), 1, r"some/model is neither .*: offline"),
    ("a file", text_file("x.txt", "hi"), ("generate", "hi", "-m", "./x.txt"), 2, r"not a checkpoint, got the file .*"),
    (
        "not a gguf",
        text_file("x.gguf", "hi there"),
        ("generate", "hi", "-m", "./x.gguf"),
        1,
        r"x\.gguf is not in the GGUF format",
    ),
    # the files of a checkpoint
    ("no config", without("config.json"), CHECKPOINT, 2, r"no config\.json in ck"),
    ("config not JSON", with_file("config.json", "{"), CHECKPOINT, 2, r"ck/config\.json is not JSON: .*"),
    (
        "config a list",
        with_file("config.json", "[]"),
        CHECKPOINT,
        2,
        r"ck/config\.json holds list; expected a JSON object",
    ),
    ("config too deep", with_file("config.json", "[" * 20_000), CHECKPOINT, 2, r"ck/config\.json is not JSON: .*"),
    ("no model_type", with_file("config.json", "{}"), CHECKPOINT, 2, r"ck/config\.json names no model_type, got None"),
    (
        "unknown model_type",
        with_config(model_type="x9"),
        CHECKPOINT,
        2,
        r"ck does not load as a model for generation: .*",
    ),
    ("negative layers", with_config(n_layer=-1), CHECKPOINT, 2, r"ck/config\.json: n_layer is -1; expected 0 to .*"),
    (
        "absurd width",
        with_config(n_embd=10**12),
        CHECKPOINT,
        2,
        r"ck/config\.json: n_embd is 1000000000000; expected .*",
    ),
    (
        "remote code",
        with_config(auto_map={"AutoModel": "x.Y"}),
        CHECKPOINT,
        2,
        r"ck/config\.json asks for Python code .*",
    ),
    (
        "remote code of a tokenizer",
        with_file("tokenizer_config.json", '{"auto_map": {}}'),
        CHECKPOINT,
        2,
        r"ck/tokenizer_config\.json asks for Python code .*",
    ),
    ("no tokenizer", without("tokenizer.json", "tokenizer_config.json"), CHECKPOINT, 2, r"no tokenizer in ck"),
    (
        "empty tokenizer",
        with_file("tokenizer.json", '{"model": {"vocab": {}}}'),
        CHECKPOINT,
        2,
        r"the tokenizer of ck is empty",
    ),
    ("LFS tokenizer", with_file("tokenizer.json", LFS), CHECKPOINT, 2, r"ck/tokenizer\.json is a git-lfs pointer, .*"),
    (
        "vocabulary too large",
        large_vocabulary,
        CHECKPOINT,
        2,
        r"the tokenizer of ck has 1,000 tokens, the embedding .*",
    ),
    ("pickled weights", pickled, CHECKPOINT, 2, r"ck holds pickled weights \(\.bin\), .*"),
    ("no weights", without("model.safetensors"), CHECKPOINT, 2, r"no model\.safetensors in ck"),
    (
        "LFS weights",
        with_file("model.safetensors", LFS),
        CHECKPOINT,
        1,
        r"ck/model\.safetensors is a git-lfs pointer, .*",
    ),
    (
        "empty weights",
        with_file("model.safetensors", ""),
        CHECKPOINT,
        1,
        r"ck/model\.safetensors is truncated or not .*",
    ),
    ("truncated weights", truncated, CHECKPOINT, 1, r"ck/model\.safetensors has .* bytes, its header promises .*"),
    ("missing shard", missing_shard, CHECKPOINT, 1, r"ck lacks 2 of 2 shards: model-00001-of-00002\.safetensors, .*"),
    (
        "another shape",
        with_config(n_embd=64),
        CHECKPOINT,
        1,
        r"ck: \d+ tensors have another shape than config\.json says: .*",
    ),
    (
        "more layers than stored",
        with_config(n_layer=4),
        CHECKPOINT,
        1,
        r"ck lacks \d+ tensors of the model, such as .*",
    ),
    (
        "values not finite",
        not_finite,
        CHECKPOINT,
        1,
        r"ck: the tensor transformer\.ln_f\.bias holds values .* not finite",
    ),
    ("flipped bit", flipped_bit, CHECKPOINT, 1, r"ck is damaged: model\.safetensors differs from its sha256"),
    # adapters
    ("no adapter", nothing, (*GENERATE, "-a", "./ad"), 2, r"no such checkpoint: \./ad"),
    ("not an adapter", a_folder("ad"), (*GENERATE, "-a", "ad"), 2, r"no adapter_config\.json in ad"),
    (
        "adapter for another width",
        adapter(16),
        (*GENERATE, "-a", "ad"),
        2,
        r"the adapter ad was made for 16 inputs at .*, the base has 32",
    ),
    (
        "adapter for more layers",
        adapter(layers=(0, 1, 2)),
        (*GENERATE, "-a", "ad"),
        2,
        r"the adapter ad .* has no module .*h\.2.*",
    ),
    (
        "adapter for fewer layers",
        adapter(layers=(0,)),
        (*GENERATE, "-a", "ad"),
        2,
        r"the adapter ad was made for another base .*",
    ),
    (
        "adapter for other weights",
        adapter(facts={"base_sha256": "0" * 64}),
        (*GENERATE, "-a", "ad"),
        2,
        r"the adapter ad was made for other weights than .* \(its sha256 differs\)",
    ),
    (
        "base of an adapter missing",
        adapter(),
        ("generate", "hi", "-m", "./ad"),
        1,
        r"the base of the adapter \./ad is not at hand: .*",
    ),
    (
        "merge of an adapter for another width",
        adapter(16),
        ("export", "merge", "{tiny}", "out", "-a", "ad"),
        2,
        r"the adapter ad was made for 16 inputs at .*, the base has 32",
    ),
    (
        "merge of an adapter for other weights",
        adapter(facts={"base_sha256": "0" * 64}),
        ("export", "merge", "{tiny}", "out", "-a", "ad"),
        2,
        r"the adapter ad was made for other weights than .* \(its sha256 differs\)",
    ),
    # settings
    ("top_p above 1", nothing, (*GENERATE, "--top-p", "1.5"), 2, r"top_p out of range, got 1\.5; expected .*"),
    ("top_p zero", nothing, (*GENERATE, "--top-p", "0"), 2, r"top_p out of range, got 0\.0; expected .*"),
    ("top_k negative", nothing, (*GENERATE, "--top-k", "-3"), 2, r"top_k out of range, got -3; expected .*"),
    ("no beams", nothing, (*GENERATE, "--num-beams", "0"), 2, r"num_beams out of range, got 0; expected .*"),
    ("temperature below 0", nothing, (*GENERATE, "-t", "-1"), 2, r"temperature out of range, got -1\.0; expected .*"),
    ("temperature nan", nothing, (*GENERATE, "-t", "nan"), 2, r"temperature out of range, got nan; expected .*"),
    ("no new tokens", nothing, (*GENERATE, "-n", "0"), 2, r"max_new_tokens out of range, got 0; expected .*"),
    (
        "too many new tokens",
        nothing,
        (*GENERATE, "-n", "1000000000"),
        2,
        r"max_new_tokens out of range, got 1000000000; .*",
    ),
    ("no samples", nothing, (*GENERATE, "-N", "0"), 2, r"num_samples out of range, got 0; expected .*"),
    ("no rows at a time", nothing, (*GENERATE, "--batch-size", "0"), 2, r"batch_size out of range, got 0; expected .*"),
    ("seed below 0", nothing, (*GENERATE, "--seed", "-1"), 2, r"seed out of range, got -1; expected .*"),
    ("empty stop", nothing, (*GENERATE, "--stop", ""), 2, r"stop must be a text or several, none of them empty, .*"),
    ("truncate right", nothing, (*GENERATE, "--truncate", "right"), 2, r"truncate can only be 'left', got 'right'"),
    (
        "prompt over the context",
        nothing,
        ("generate", "word " * 300, "-m", "{tiny}"),
        2,
        r"the prompt has [\d,]+ tokens, .*",
    ),
    ("not a number", nothing, (*GENERATE, "-n", "many"), 2, r"invalid value for '-n' .*valid integer.*"),
    ("unknown option", nothing, (*GENERATE, "--temprature", "1"), 2, r"no such option: --temprature.*--temperature.*"),
    ("unknown command", nothing, ("genrate", "hi"), 2, r"no such command 'genrate'.*generate.*"),
    ("unknown export", nothing, ("export", "onxx"), 2, r"no such command 'onxx'.*"),
    ("missing argument", nothing, ("export", "safetensors", "a"), 2, r"missing argument 'out'"),
    # devices
    ("no GPU", nothing, (*GENERATE, "--device", "cuda"), 2, r"no CUDA device on this machine"),
    ("unknown device", nothing, (*GENERATE, "--device", "tpu"), 2, r"unknown device, got 'tpu'; expected .*"),
    ("unknown dtype", nothing, (*GENERATE, "--dtype", "int4"), 2, r"unknown dtype, got 'int4'; expected .*"),
    # inputs and outputs
    ("missing input", nothing, ("generate", "-m", "{tiny}", "-f", "none.txt"), 2, r"no such file: none\.txt"),
    ("input a folder", a_folder("in"), ("generate", "-m", "{tiny}", "-f", "in"), 2, r"not a regular file: in"),
    ("input a pipe", pipe, ("generate", "-m", "{tiny}", "-f", "in"), 2, r"not a regular file: in"),
    ("empty input", text_file("in.txt", ""), ("generate", "-m", "{tiny}", "-f", "in.txt"), 2, r"no rows in in\.txt"),
    (
        "header only",
        text_file("in.csv", "text\n"),
        ("generate", "-m", "{tiny}", "-f", "in.csv"),
        2,
        r"no rows in in\.csv",
    ),
    (
        "text and file",
        text_file("in.txt", "x"),
        (*GENERATE, "-f", "in.txt"),
        2,
        r"got both TEXT and -f; expected one of them",
    ),
    (
        "missing column",
        text_file("in.csv", "TEXT,id\na,1\n"),
        ("generate", "-m", "{tiny}", "-f", "in.csv"),
        2,
        r"column 'text' is not in in\.csv, which has: TEXT, id",
    ),
    (
        "another encoding",
        text_file("in.txt", "好\n今天天气".encode("gb18030")),
        ("generate", "-m", "{tiny}", "-f", "in.txt"),
        2,
        r"in\.txt is not utf-8, .*",
    ),
    (
        "unknown encoding",
        text_file("in.txt", "x"),
        ("generate", "-m", "{tiny}", "-f", "in.txt", "--encoding", "utf-9"),
        2,
        r"no such encoding, got 'utf-9'; expected .*",
    ),
    ("output exists", text_file("out.txt", "mine"), (*GENERATE, "-o", "out.txt"), 2, r"out\.txt exists already"),
    ("output a folder", a_folder("out"), (*GENERATE, "-o", "out"), 2, r"cannot write to out; expected .*"),
    ("output without parent", nothing, (*GENERATE, "-o", "no/out.txt"), 2, r"cannot write to no/out\.txt; expected .*"),
    (
        "output is the input",
        text_file("in.txt", "x\n"),
        ("generate", "-m", "{tiny}", "-f", "in.txt", "-o", "in.txt", "--overwrite"),
        2,
        r"-o and -f name the same file: in\.txt",
    ),
    (
        "output column there already",
        text_file("in.csv", "text,generation\na,b\n"),
        ("generate", "-m", "{tiny}", "-f", "in.csv", "-o", "out.csv"),
        2,
        r"in\.csv has a column 'generation' already, .*",
    ),
    # a run
    ("recipe missing", nothing, ("pretrain", "none.yaml"), 2, r"recipe not found: none\.yaml"),
    ("recipe of a name unknown", nothing, ("pretrain", "shakespear-small"), 2, r".*shakespear-small.*"),
    ("recipe with a typo", recipe(), (*PRETRAIN, "optm.lr=1"), 2, r"command line: .*unknown key 'optm.*'optim'\?"),
    ("recipe without data", recipe(), (*PRETRAIN, "data.path=null"), 2, r"r\.yaml:\d+: data\.path: missing; .*"),
    ("data missing", recipe(), (*PRETRAIN, "data.path=none.jsonl"), 2, r".*none\.jsonl.*"),
    ("data empty", recipe(text=""), PRETRAIN, 2, r"0 examples in t\.jsonl"),
    (
        "data without the column",
        recipe(text='{"TEXT": "a"}\n'),
        PRETRAIN,
        2,
        r"t\.jsonl row 1: column 'text' not in \[TEXT\]",
    ),
    ("data not JSON", recipe(text='{"text": "a"}\n{"text": \n'), PRETRAIN, 2, r"t\.jsonl.* 2.*"),
    (
        "data with null",
        recipe(text='{"text": "a"}\n{"text": null}\n'),
        PRETRAIN,
        2,
        r"t\.jsonl row 2: expected text, got null.*",
    ),
    (
        "data in another encoding",
        recipe(text='{"text": "今天"}\n'.encode("gb18030")),
        PRETRAIN,
        2,
        r"t\.jsonl line 1 byte 11: not utf-8",
    ),
    ("fewer rows than a batch", recipe(), (*PRETRAIN, "train.global_batch_size=999"), 2, r"\d+ rows < batch 999; .*"),
    (
        "all documents held out",
        recipe(text='{"text": "a story"}\n{"text": "天气"}\n'),
        (*PRETRAIN, "data.eval_documents=2"),
        2,
        r"data\.eval_documents would hold out 2 of the 2 documents of t\.jsonl, and leave none",
    ),
    (
        "documents held out of a stream",
        recipe(),
        (*PRETRAIN, "data.eval_documents=1", "data.streaming=true"),
        2,
        r"command line: data\.eval_documents=1: a stream has no last documents to hold out; expected .*",
    ),
    (
        "documents and rows held out",
        recipe(),
        (*PRETRAIN, "data.eval_documents=1", "data.eval_rows=1"),
        2,
        r"command line: data\.eval_documents=1: given beside data\.eval_rows; expected one of the two",
    ),
    (
        "paragraphs that are all too short",
        recipe(),
        (*PRETRAIN, "data.clean.min_paragraph_chars=99"),
        2,
        r"0 examples in t\.jsonl",
    ),
    ("a pipe as data", pipe_as_data, PRETRAIN, 2, r".*not a regular file.*"),
    (
        "a row longer than the context",
        recipe(),
        (*PRETRAIN, "data.max_length=999"),
        2,
        r".*data\.max_length: 999 exceeds.*",
    ),
    ("an optimizer unknown", recipe(), (*PRETRAIN, "optim.name=adamW"), 2, r".*optim\.name.*did you mean 'AdamW'\?"),
    ("a config key unknown", recipe(), (*PRETRAIN, "model.config.n_layr=2"), 2, r".*n_layr.*did you mean 'n_layer'\?"),
    ("tokenizer missing", recipe(), (*PRETRAIN, "model.tokenizer=./none"), 2, r"no such checkpoint: \./none"),
    (
        "a run folder that is a file",
        recipe(),
        (*PRETRAIN, "output_dir=r.yaml"),
        2,
        r"r\.yaml is a file; expected a folder.*",
    ),
    ("a run folder in a file", recipe(), (*PRETRAIN, "output_dir=r.yaml/x"), 2, r"r\.yaml/x cannot be written: .*"),
    ("a run folder that is full", recipe(), (*PRETRAIN, "output_dir=full"), 2, r"full is not empty; .*"),
    (
        "a run to resume that is not there",
        recipe(),
        (*PRETRAIN, "--resume", "must"),
        2,
        r"no whole step to resume from in .*",
    ),
    (
        "a checkpoint to resume that is none",
        recipe(),
        (*PRETRAIN, "--resume", "./x"),
        2,
        r"no step to resume from at x; .*",
    ),
    # examples
    (
        "labels that count from 1",
        labelled(*range(1, 6)),
        (*FINETUNE, "model.labels=[a,b,c,d,e]"),
        2,
        r"t\.jsonl row 5: unknown label, got 5; expected a, b, c, d, e, or 0 to 4",
    ),
    (
        "label -1",
        labelled("neg", -1),
        (*FINETUNE, "model.labels=[neg,pos]"),
        2,
        r"t\.jsonl row 2: unknown label, got -1; expected neg, pos, or 0 to 1",
    ),
    (
        "label that is none of the names",
        labelled("neg", "pos", "neutral"),
        (*FINETUNE, "model.labels=[neg,pos]"),
        2,
        r"t\.jsonl row 3: unknown label, got 'neutral'; expected neg, pos, or 0 to 1",
    ),
    (
        "label that is null",
        labelled("neg", None),
        (*FINETUNE, "model.labels=[neg,pos]"),
        2,
        r"t\.jsonl row 2: expected text or a number as label, got null",
    ),
    (
        "answer that begins elsewhere",
        asked("nothing", 4),
        FINETUNE,
        2,
        r"t\.jsonl row 2: answer_start 4 points to 'captain', the answer is 'nothing'",
    ),
    (
        "answer that begins before the text",
        asked("nothing", -30),
        FINETUNE,
        2,
        r"t\.jsonl row 2: answer_start -30 points to .*, the answer is 'nothing'",
    ),
    (
        "answer beyond the text",
        asked("什么", 99),
        FINETUNE,
        2,
        r"t\.jsonl row 2: answer_start 99 points to '', the answer is '什么'",
    ),
    (
        "answer that is not in the text",
        asked("the cook", None),
        FINETUNE,
        2,
        r"t\.jsonl row 2: the answer 'the cook' does not stand in the text",
    ),
    (
        "answer that is empty",
        asked("", None),
        FINETUNE,
        2,
        r"t\.jsonl row 2: the answer '' does not stand in the text",
    ),
    (
        "adapter for modules that there are not",
        labelled("a"),
        (*FINETUNE, "objective=causal-lm", "adapter={peft_type: LORA, target_modules: [query]}"),
        2,
        r"adapter\.target_modules: gpt2 has no module 'query'; its linear modules are c_attn, c_fc, c_proj, lm_head",
    ),
    (
        "adapter for a pattern that nothing matches",
        labelled("a"),
        (*FINETUNE, "objective=causal-lm", "adapter={peft_type: LORA, target_modules: .*query}"),
        2,
        r"adapter\.target_modules: nothing in gpt2 matches; its linear modules are c_attn, c_fc, c_proj, lm_head",
    ),
    ("no seconds", recipe(), (*PRETRAIN, "--max-seconds", "0"), 2, r"max_seconds out of range, got 0.*"),
    ("inspect nothing", nothing, ("data", "inspect", "none.yaml"), 2, r"recipe not found: none\.yaml"),
    (
        "tokenizer of nothing",
        nothing,
        ("data", "tokenizer", "none.txt", "-o", "tok", "--vocab-size", "300"),
        2,
        r".*none\.txt.*",
    ),
    (
        "tokenizer of a recipe unknown",
        nothing,
        ("data", "tokenizer", "none.yaml", "-o", "tok", "--vocab-size", "300"),
        2,
        r"recipe not found: none\.yaml",
    ),
    (
        "tokenizer of a recipe with a typo",
        recipe(),
        ("data", "tokenizer", "r.yaml", "data.pth=t.jsonl", "-o", "tok", "--vocab-size", "300"),
        2,
        r"command line: data\.pth=t\.jsonl: .*did you mean 'path'\?",
    ),
    (
        "tokenizer of a recipe and files",
        recipe(),
        ("data", "tokenizer", "r.yaml", "t.jsonl", "-o", "tok", "--vocab-size", "300"),
        2,
        r"command line: expected key=value, got 't\.jsonl'",
    ),
    (
        "tokenizer of a recipe that holds all documents out",
        recipe(),
        ("data", "tokenizer", "r.yaml", "data.eval_documents=1", "-o", "tok", "--vocab-size", "300"),
        2,
        r"data\.eval_documents would hold out 1 of the 1 documents of t\.jsonl, and leave none",
    ),
    (
        "tokenizer of a recipe with an option for files",
        recipe(),
        ("data", "tokenizer", "r.yaml", "-o", "tok", "--vocab-size", "300", "--text-column", "body"),
        2,
        r"--text-column and --encoding cannot act on a recipe",
    ),
    ("vocabulary of no size", text_file("in.txt", "x"), (*TOKENIZER, "--vocab-size", "7"), 2, r".*7.*"),
    ("recipe to copy over another", text_file("shakespeare-small.yaml", "mine"), COPY, 2, r".*exists already"),
    # tasks
    (
        "no checkpoint to translate",
        nothing,
        ("translate", "hi", "--to", "fr"),
        2,
        r"translation needs a checkpoint, .*",
    ),
    ("no language to translate to", nothing, TRANSLATE, 2, r".* is asked by a prompt, got no target language; .*"),
    (
        "unknown language",
        nothing,
        (*TRANSLATE, "--to", "xx"),
        2,
        r"unknown language, got 'xx'; expected a code of ISO 639 such as .*",
    ),
    ("empty language", nothing, (*TRANSLATE, "--to", ""), 2, r"tgt_lang must be a language code, got ''; .*"),
    (
        "no beams to translate",
        nothing,
        (*TRANSLATE, "--to", "fr", "--num-beams", "0"),
        2,
        r"num_beams out of range, .*",
    ),
    ("empty question", CONTEXT, ("answer", "", *ANSWER), 2, r"the question is empty; expected at least one word"),
    ("no question", CONTEXT, ("answer", *ANSWER), 2, r"no question, got neither QUESTION nor -f; .*"),
    (
        "question longer than the window",
        CONTEXT,
        ("answer", "who? " * 99, *ANSWER),
        2,
        r"the question is too long, got \d+ tokens with the words around it; expected at most \d+",
    ),
    ("missing context", nothing, ("answer", "who?", *ANSWER), 2, r"no such file: c\.txt"),
    ("empty context", text_file("c.txt", ""), ("answer", "who?", *ANSWER), 2, r"c\.txt is empty; expected a text .*"),
    ("blank context", text_file("c.txt", " \n\n"), ("answer", "who?", *ANSWER), 2, r".*c\.txt.* is empty; .*"),
    (
        "context in another encoding",
        text_file("c.txt", "船长什么也没说".encode("gb18030")),
        ("answer", "who?", *ANSWER),
        2,
        r"c\.txt is not utf-8 \(byte 0\)",
    ),
    ("no answers", CONTEXT, ("answer", "who?", *ANSWER, "--top", "0"), 2, r"top out of range, got 0; expected .*"),
    (
        "threshold nan",
        CONTEXT,
        ("answer", "who?", *ANSWER, "--no-answer-threshold", "nan"),
        2,
        r"no_answer_threshold out of range, got nan; .*",
    ),
    (
        "threshold for a model that writes",
        CONTEXT,
        ("answer", "who?", *ANSWER, "--no-answer-threshold", "0"),
        2,
        r"no_answer_threshold needs a model with a head for question answering; .*",
    ),
    ("no labels", nothing, ("classify", "hi", "-m", "{tiny}"), 2, r".* is a language model without labels .*"),
    ("one label", nothing, (*SENTIMENT, "--labels", "a"), 2, r".* is a language model without labels .*, got 1; .*"),
    (
        "a label twice",
        nothing,
        (*SENTIMENT, "--labels", "a,a"),
        2,
        r"labels must be there, not empty and each once, .*",
    ),
    ("no rows to classify at a time", nothing, (*SENTIMENT, "--batch-size", "0"), 2, r"batch_size out of range, .*"),
    (
        "hypothesis without a place",
        nothing,
        (*SENTIMENT, "--labels", "a,b", "--hypothesis", "x"),
        2,
        r"hypothesis needs a place for the label, got 'x'; .*",
    ),
    (
        "column of texts missing",
        text_file("in.csv", "a,b\n1,2\n"),
        ("sentiment", "-m", "{tiny}", "-f", "in.csv"),
        2,
        r"column 'text' is not in in\.csv, which has: a, b",
    ),
    # evaluation
    ("unknown task", nothing, (*EVALUATE, "chess", "--data", "t.csv"), 2, r"unknown task, got 'chess'; expected .*"),
    (
        "nothing to evaluate on",
        nothing,
        (*EVALUATE, "sentiment"),
        2,
        r"no data to evaluate on; expected --data FILE .*",
    ),
    ("evaluate on no file", nothing, (*EVALUATE, "sentiment", "--data", "t.csv"), 2, r"no such file: t\.csv"),
    (
        "evaluate on no rows",
        text_file("t.csv", "text,label\n"),
        (*EVALUATE, "sentiment", "--data", "t.csv"),
        2,
        r"0 examples in t\.csv",
    ),
    (
        "label out of range",
        text_file("t.csv", "text,label\nhi,3\n"),
        (*EVALUATE, "sentiment", "--data", "t.csv"),
        2,
        r"t\.csv row 1: unknown label, got '3'; expected negative, positive, or 0 to 1",
    ),
    (
        "key of the data unknown",
        text_file("t.csv", "text,label\nhi,1\n"),
        (*EVALUATE, "sentiment", "--data", "t.csv", "data.labl_column=x"),
        2,
        r"command line: data\.labl_column=x: unknown key 'labl_column'; did you mean 'label_column'\?",
    ),
    (
        "key for another task",
        text_file("t.csv", "text,label\nhi,1\n"),
        (*EVALUATE, "translation", "--data", "t.csv", "--labels", "a,b"),
        2,
        r"--labels \(in Python: labels=\) cannot act with translation",
    ),
    # export and doctor
    ("export over a folder", a_folder("out"), ("export", "safetensors", "{tiny}", "out"), 2, r"out exists already; .*"),
    (
        "nothing to export",
        nothing,
        ("export", "safetensors", "{tiny}", "out"),
        2,
        r".* has safetensors weights already; .*",
    ),
    ("doctor of nothing", nothing, ("doctor", "./nowhere"), 2, r"no such checkpoint: \./nowhere"),
    ("doctor of damage", truncated, ("doctor", "ck"), 1, r"ck/model\.safetensors has .* bytes, .*"),
]


def tree(folder: Files) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for p in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(("setup", "arguments", "code", "sentence"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_bad_input_gets_one_sentence(
    setup, arguments, code, sentence, make_checkpoint, llmkit_cli, tmp_path, tmp_path_factory, monkeypatch
):
    tiny = make_checkpoint("gpt2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    setup(tmp_path, tiny)
    before = tree(tmp_path)
    got, out, err = llmkit_cli(*(a.replace("{tiny}", str(tiny)) for a in arguments), stdin="")
    errors = [line for line in err.splitlines() if line.startswith("llmkit: error: ")]
    assert (got, out, len(errors)) == (code, "", 1), err
    assert re.fullmatch(sentence, errors[0].removeprefix("llmkit: error: ")), errors[0]
    assert len(errors[0]) <= 320
    assert "Traceback" not in err
    assert sum(line.startswith("hint: ") for line in err.splitlines()) <= 1
    assert tree(tmp_path) == before


NOTED = [
    (
        "one class only",
        labelled("neg", "neg"),
        (*FINETUNE, "model.labels=[neg,pos]"),
        "no example to train on is labelled pos",
    ),
    (
        "class without an example",
        labelled("neg", "pos", 0, 1),
        (*FINETUNE, "model.labels=[neg,pos,neutral]"),
        "no example to train on is labelled neutral",
    ),
    (
        "class that is held out alone",
        labelled("neg", "neg", "pos"),
        (*FINETUNE, "model.labels=[neg,pos]", "data.eval_rows=1"),
        "no example to train on is labelled pos",
    ),
    (
        "class missing in the evaluation data",
        labelled("neg", "pos", "neg"),
        (*FINETUNE, "model.labels=[neg,pos]", "data.eval_rows=1"),
        "no example to evaluate on is labelled pos",
    ),
]


@pytest.mark.parametrize(("setup", "arguments", "note"), [r[1:] for r in NOTED], ids=[r[0] for r in NOTED])
def test_odd_input_is_taken_with_one_note(
    setup, arguments, note, make_checkpoint, llmkit_cli, tmp_path, tmp_path_factory, monkeypatch
):
    tiny = make_checkpoint("gpt2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    setup(tmp_path, tiny)
    code, out, err = llmkit_cli(*(a.replace("{tiny}", str(tiny)) for a in arguments), stdin="")
    assert (code, out) == (0, "run\n"), err
    assert err.splitlines().count(f"llmkit: note: {note}") == 1, err
