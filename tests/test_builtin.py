"""The embedded checkpoint: what it writes for fifty seeds a language, how well it predicts, what its card says."""

import collections
import json
import lzma
import math
import re
import subprocess
import sys

import pytest
import torch
from han_bigrams import bigrams, read_list, share
from safetensors.torch import load_file

import llmkit
from llmkit import locating, runfolder
from llmkit.data.ledger import Counts
from llmkit.data.sources import read_documents

TINY = locating.BUILTIN / "tiny"
SEEDS = 50
MAX_BYTES = 9_000_000
MARGIN = 0.03  # of the bigrams, below held-out text
BELOW_XZ = 0.25


@pytest.fixture(scope="module")
def tiny():
    return llmkit.load("builtin/tiny", device="cpu")


@pytest.fixture(scope="module")
def texts(tiny):
    """What it writes for the seeds 0 to 49, with the defaults."""

    def write(prompt):
        return [one.text for one in llmkit.generate_batch([prompt], model=tiny, seed=0, num_samples=SEEDS)]

    return {"zh": write("人工智能的未来是"), "en": write("It was a cold morning")}


def han_share(text):
    letters = [c for c in text if c.isalpha()]
    return sum("\u4e00" <= c <= "\u9fff" for c in letters) / len(letters)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_texts_hold_whole_characters_alone(texts, language):
    assert len(texts[language]) == SEEDS
    assert [text for text in texts[language] if "\ufffd" in text] == []
    assert all(text.strip() for text in texts[language])


@pytest.mark.parametrize("language", ["zh", "en"])
def test_texts_do_not_repeat_themselves(texts, tiny, language):
    """No four words, characters of Chinese or tokens make up more than a tenth of a text's."""
    for text in texts[language]:
        words = re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text)
        for units in (words, tiny.tokenizer(text)["input_ids"]):
            grams = collections.Counter(zip(*(units[i:] for i in range(4)), strict=False))
            number = sum(grams.values())
            assert max(grams.values()) <= max(0.1 * number, 1), text


def test_chinese_texts_are_chinese(texts):
    assert [text for text in texts["zh"] if han_share(text) < 0.8] == []


def test_chinese_texts_are_made_of_known_bigrams(texts, record_property):
    held_out, known = read_list()
    reached = share(texts["zh"], known)
    record_property("summary", f"Han bigrams known: {reached:.1%} of generated text, {held_out:.1%} of held-out text")
    assert reached >= held_out - MARGIN


def test_english_texts_are_english(texts):
    for text in texts["en"]:
        assert len(re.findall(r"[A-Za-z]", text)) >= 0.95 * sum(c.isalpha() for c in text), text


def test_checkpoint_is_small_whole_and_loads_in_plain_transformers():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert sum(p.stat().st_size for p in TINY.iterdir()) <= MAX_BYTES
    assert runfolder.find_damage(TINY) is None
    assert {tensor.dtype for tensor in load_file(TINY / "model.safetensors").values()} == {torch.bfloat16}
    model, info = AutoModelForCausalLM.from_pretrained(TINY, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert len(AutoTokenizer.from_pretrained(TINY)) == model.config.vocab_size == 8192


def test_built_in_checkpoint_runs_in_float32_on_a_cpu(tiny):
    assert tiny.model.dtype == torch.float32


def test_tokenizer_gives_any_text_back(tiny):
    for text in ("人工智能的未来是\r\n\t龘𠮷😀", "It's  a\u00a0cold—morning\n\n", "é ﬁ Ω\u200d"):
        assert tiny.tokenizer.decode(tiny.tokenizer(text)["input_ids"]) == text


def test_default_of_generate_says_in_one_note_that_it_is_tiny(llmkit_cli):
    code, out, err = llmkit_cli("generate", "人工智能的未来是", "--seed", "1", "-n", "8")
    assert code == 0
    assert out.strip()
    assert err == "llmkit: note: builtin/tiny is a tiny model, -m names another\n"
    _, _, err = llmkit_cli("generate", "It was", "-n", "4")
    assert re.fullmatch(r"llmkit: note: builtin/tiny is a tiny model, -m names another; seed \d+\n", err)
    assert llmkit_cli("generate", "It was", "-n", "4", "--quiet")[2] == ""


def test_default_of_python_is_the_built_in_checkpoint(tiny):
    assert llmkit.generate("It was", seed=3).token_ids == llmkit.generate("It was", seed=3, model=tiny).token_ids


@pytest.mark.parametrize(
    "call",
    [
        ["generate", "人工智能的未来是", "--seed", "1", "-n", "8"],
        ["translate", "Good morning.", "--from", "en", "--to", "zh"],
    ],
    ids=lambda call: call[0],
)
def test_verb_asks_no_network_and_no_hub(call, tmp_path):
    """In a process of its own, where every connection and every name is refused."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from llmkit.cli.main import run\n"
        f"sys.exit(run({call}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


def test_generate_in_its_own_language(llmkit_cli):
    _, out, _ = llmkit_cli("generate", "人工智能的未来是", "--seed", "1")
    assert han_share(out) >= 0.8


def read_card():
    """The rows of the card's tables: heading -> rows."""
    tables = {}
    for section in (TINY / "README.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        tables[title] = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]
    return tables


def test_card_measures_both_languages_below_a_compressor():
    rows = read_card()["Held-out text"]
    assert len(rows) == 2
    for _, _, model, packed, uniform, _ in rows:
        assert float(uniform) == 8.0
        assert float(model) <= (1 - BELOW_XZ) * float(packed)


def test_card_agrees_with_the_recipe_and_the_folder():
    recipe = llmkit.read_recipe("tiny", own_data=True)
    facts = json.loads((TINY / "llmkit.json").read_text(encoding="utf-8"))
    training = dict(read_card()["Training"])
    assert facts["step"] == facts["max_steps"] == recipe.train.max_steps
    assert f" {recipe.train.max_steps:,} steps of {recipe.train.global_batch_size} sequences" in training["training"]
    assert int(training["tokens seen"].replace(",", "")) == pytest.approx(facts["step"] * 16 * 255, rel=0.01)
    assert [row[:2] for row in read_card()["Data"]] == [[part.origin, part.license] for part in recipe.data.mix]
    assert " ".join(recipe.about.split()) in (TINY / "README.md").read_text(encoding="utf-8")


def test_samples_of_the_card_come_again(tiny):
    text = (TINY / "README.md").read_text(encoding="utf-8").partition("## Samples\n")[2]
    prompts = llmkit.read_recipe("tiny", own_data=True).eval.generate
    assert len(prompts) == 2
    for prompt in prompts:
        for seed in (1, 2, 3):
            made = llmkit.generate(prompt, model=tiny, seed=seed).text
            assert "\n".join(f"> {line}".rstrip() for line in f"**{prompt}**{made}".splitlines()) in text


def measure(tiny, data, number):
    """Bits per byte of the model and of xz on the held-out documents of a source, by plain transformers."""
    files = ("english_novels.jsonl.gz", "chinese_tech.jsonl.gz")
    paths = {f"data.mix.{i}.path": str(data / "lm" / name) for i, name in enumerate(files)}
    source = llmkit.read_recipe("tiny", paths).data.mix[number]
    texts = [document.text for document in read_documents(source, counts=Counts("texts"))][-source.eval_documents :]
    nats, size, packed = 0.0, 0, lzma.compress("".join(texts).encode(), preset=9)
    for text in texts:
        ids = [*tiny.tokenizer(text)["input_ids"], tiny.tokenizer.eos_token_id]
        for start in range(0, len(ids) - 1, 255):
            window = torch.tensor([ids[start : start + 256]])
            with torch.no_grad():
                logits = tiny.model(window, use_cache=False).logits[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
        size += len(text.encode())
    return nats / math.log(2) / size, 8 * len(packed) / size


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_figures_of_the_card_come_again(tiny, data, number, record_property):
    """By windows that begin anew with each document, where the card packs several into a row: nearly the same."""
    model, packed = measure(tiny, data, number)
    row = read_card()["Held-out text"][number]
    record_property("summary", f"{row[0]}: {model:.3f} bits a byte, xz {packed:.3f}; card {row[2]}, {row[3]}")
    assert model == pytest.approx(float(row[2]), rel=0.02)
    assert packed == pytest.approx(float(row[3]), rel=0.01)
    assert model <= (1 - BELOW_XZ) * packed


def test_list_of_bigrams_is_read_as_it_was_written():
    held_out, known = read_list()
    assert 0.85 < held_out < 1
    assert len(known) > 50_000
    assert {"人工", "未来", "我们"} <= known
    assert "们我" in known or "是的" in known
    assert list(bigrams(["a人工b智"])) == ["人工"]
