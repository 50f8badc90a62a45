"""The model card that a run writes: what it was trained on, what was measured, on the weights as they are stored."""

import lzma
import math
import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from small_runs import STORY
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmkit
from llmkit import runfolder
from llmkit.training import card

ENGLISH = [{"text": f"{STORY} {i}"} for i in range(30)]


@pytest.fixture
def two_sources(tmp_path):
    """A mixture of two files, the last documents of each held out."""
    english, chinese = tmp_path / "english.txt", tmp_path / "chinese.txt"
    english.write_text("\n".join(f"Once upon a time, it was a cold morning {i}." for i in range(40)), encoding="utf-8")
    chinese.write_text("\n".join(f"今天天气很好 {i}。" for i in range(40)), encoding="utf-8")
    return [
        {
            "path": str(english),
            "sample_by": "line",
            "eval_documents": 4,
            "origin": "Stories (someone/stories @1a2b)",
            "license": "CC0-1.0",
            "weight": 1.0,
        },
        {"path": str(chinese), "sample_by": "line", "eval_documents": 6, "weight": 0.5},
    ]


def train(make_recipe, mix, **changes):
    recipe = make_recipe(**changes)
    recipe["data"] = {"mix": mix, "max_length": 32, "pack": False}  # each document is a row of its own
    return llmkit.train(recipe)


def read_table(text, title):
    """The rows of the table under a heading, the head left out."""
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_card_names_sources_licences_and_how_often_each_was_seen(make_recipe, two_sources):
    run = train(make_recipe, two_sources)
    text = (run.path / "final" / "README.md").read_text(encoding="utf-8")
    first, second = read_table(text, "Data")
    assert first[:3] == ["Stories (someone/stories @1a2b)", "CC0-1.0", "40"]
    assert second[:3] == ["chinese.txt", "not stated", "40"]
    seen = int(dict(read_table(text, "Training"))["tokens seen"].replace(",", ""))
    for row, share in ((first, 2 / 3), (second, 1 / 3)):
        assert row[4] == f"{seen * share / int(row[3].replace(',', '')):.2f} times"
    assert str(run.path.parent) not in text


def test_card_stands_in_the_run_and_beside_the_weights(make_recipe):
    run = llmkit.train(make_recipe(about="It writes of the sea. 它写海。"))
    text = (run.path / "README.md").read_text(encoding="utf-8")
    assert text == (run.path / "final" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "\n# recipe\n\nIt writes of the sea. 它写海。\n\n## Training\n" in text
    assert "## Held-out text" not in text
    assert "## Samples" not in text


def test_card_measures_held_out_text_beside_a_compressor(make_recipe, two_sources):
    run = train(make_recipe, two_sources, save={"dtype": "bfloat16"})
    text = (run.path / "final" / "README.md").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(run.path / "final", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.path / "final")
    for row, source, held in zip(read_table(text, "Held-out text"), two_sources, (4, 6), strict=True):
        with open(source["path"], encoding="utf-8") as file:
            documents = file.read().split("\n")[-held:]
        nats, predicted = 0.0, b""
        for document in documents:  # each alone: a row never looks into another document
            ids = tokenizer(document)["input_ids"] + [tokenizer.eos_token_id]
            with torch.no_grad():
                nats += float(model(torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1)
            predicted += document.encode()[len(tokenizer.convert_ids_to_tokens(ids[0])) :]  # a character a byte
        packed = 8 * len(lzma.compress(predicted, preset=9)) / len(predicted)
        assert row[0] == source.get("origin", "chinese.txt")
        assert row[1] == f"{len(predicted):,}"
        assert [float(row[3]), float(row[4])] == [round(packed, 3), 8.0]
        assert float(row[2]) == pytest.approx(nats / math.log(2) / len(predicted), abs=0.001)
        assert float(row[5].rstrip("%")) / 100 == pytest.approx(1 - float(row[2]) / packed, abs=0.002)


def test_card_of_ones_own_data_claims_nothing_that_the_recipe_states_of_others(make_recipe, two_sources):
    recipe = make_recipe()
    recipe["data"] = {"mix": two_sources, "max_length": 32}
    run = llmkit.train(recipe, dataset=ENGLISH, eval_dataset=ENGLISH[:3])
    rows = read_table((run.path / "README.md").read_text(encoding="utf-8"), "Data")
    assert [row[:3] for row in rows] == [["the data set", "not stated", "30"]]


def test_card_leaves_out_held_out_rows_without_text(make_recipe, stories):
    from transformers import AutoTokenizer

    end = AutoTokenizer.from_pretrained(stories / "tokenizer").eos_token_id
    run = llmkit.train(make_recipe(), dataset=ENGLISH, eval_dataset=[{"input_ids": [end, end, end]}])
    assert read_table((run.path / "README.md").read_text(encoding="utf-8"), "Held-out text") == []


def test_samples_of_a_card_come_again_from_the_stored_weights(make_recipe, two_sources):
    prompts = ["Once upon", "今天天气"]
    run = train(make_recipe, two_sources, eval={"generate": prompts}, save={"dtype": "bfloat16"})
    text = (run.path / "final" / "README.md").read_text(encoding="utf-8").partition("## Samples\n")[2]
    for prompt in prompts:
        for seed in (1, 2, 3):
            made = llmkit.generate(prompt, model=run.path / "final", seed=seed).text
            quoted = "\n".join(f"> {line}".rstrip() for line in f"**{prompt}**{made}".splitlines())
            assert f"Seed {seed}:\n\n{quoted}\n" in text


def test_card_of_a_fine_tuned_model_names_what_it_began_from(make_recipe):
    base = llmkit.train(make_recipe())
    recipe = make_recipe(output_dir=str(base.path.with_name("more")))
    recipe["model"] = {"name": str(base.path / "final")}
    run = llmkit.train(recipe, dataset=ENGLISH)
    training = dict(read_table((run.path / "README.md").read_text(encoding="utf-8"), "Training"))
    assert re.fullmatch(r"causal-lm from the weights of .*final, 6 steps of 8 sequences", training["training"])


def test_final_is_stored_in_the_type_that_the_recipe_states(make_recipe):
    run = llmkit.train(make_recipe(save={"dtype": "bfloat16"}))
    stored = load_file(run.path / "final" / "model.safetensors")
    trained = load_file(run.path / "checkpoints" / "step-000006" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert stored.keys() == trained.keys()
    assert all(torch.equal(stored[name], trained[name].to(torch.bfloat16)) for name in stored)
    model = AutoModelForCausalLM.from_pretrained(run.path / "final", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.transformer.wte.weight
    assert llmkit.load(run, device="cpu").model.dtype == torch.float32


def test_settings_of_generation_are_stored_and_used(make_recipe, two_sources):
    settings = {"do_sample": True, "top_k": 1, "max_new_tokens": 5}
    run = train(make_recipe, two_sources, eval={"generate": ["Once upon"]}, save={"generation_config": settings})
    made = llmkit.generate("Once upon", model=run, seed=1)
    assert made.token_ids == llmkit.generate("Once upon", model=run, temperature=0, max_new_tokens=5).token_ids
    assert f"**Once upon**{made.text.rstrip()}\n" in (run.path / "README.md").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(run.path / "final")
    assert (model.generation_config.top_k, model.generation_config.max_new_tokens) == (1, 5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"temprature": 0.5},
            "save.generation_config.temprature: GenerationConfig has no such key; did you mean 'temperature'?",
        ),
        ({"top_p": 0.9}, "save.generation_config: GenerationConfig refuses it: "),
    ],
)
def test_settings_of_generation_are_checked_before_anything_starts(make_recipe, settings, sentence):
    recipe = make_recipe(save={"generation_config": settings})
    with pytest.raises(llmkit.InputError, match=re.escape(sentence)):
        llmkit.train(recipe)


def test_what_a_card_says_and_how_it_is_stored_may_change_when_a_run_goes_on(make_recipe):
    llmkit.train(make_recipe(train={"max_steps": 4}))
    told = {"about": "More of it.", "data": {"origin": "The sea", "license": "CC0-1.0"}, "save": {"dtype": "bfloat16"}}
    run = llmkit.train(make_recipe(**told), resume="must")
    text = (run.path / "README.md").read_text(encoding="utf-8")
    assert "\nMore of it.\n" in text
    assert "\n| The sea | CC0-1.0 | " in text
    assert llmkit.read_recipe(run.path / "recipe.yaml", own_data=True).save.dtype == "bfloat16"


@pytest.mark.parametrize("part", ["load", "lzma", "_show_samples"])
def test_final_is_whole_where_its_card_cannot_be_measured(make_recipe, two_sources, monkeypatch, notes, part):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("the device has no memory\nleft")

    place, name = (card.lzma, "compress") if part == "lzma" else (card, part)
    monkeypatch.setattr(place, name, fail)
    run = train(make_recipe, two_sources, eval={"generate": ["Once upon"]})
    assert "the model card measures nothing: the device has no memory left" in notes
    text = (run.path / "final" / "README.md").read_text(encoding="utf-8")
    assert text == (run.path / "README.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Training", "## Data", "## Evaluation"]
    assert ["loss", f"{run.metrics['loss']:.4f}"] in read_table(text, "Evaluation")
    assert runfolder.find_damage(run.path / "final") is None
    recipe = run.path / "recipe.yaml"
    assert llmkit.train(recipe, resume="auto", watch=lambda progress: pytest.fail("it trains")).finished


def test_card_names_no_checkpoint_of_the_package_as_one_of_the_hub(make_recipe):
    recipe = make_recipe(train={"max_steps": 1})
    recipe["model"] = {"name": "builtin/tiny"}
    run = llmkit.train(recipe, dataset=ENGLISH)
    assert ModelCard.load(run.path / "README.md").data.base_model is None
