"""The parts of a run: what is checked, what is settled, and that they serve under transformers.Trainer too."""

import pytest
import torch
from objective_recipes import KINDS, objective_recipe

import llmkit
from llmkit.errors import InputError
from llmkit.training import building
from llmkit.training.objectives import LABELS


def problems(recipe):
    with pytest.raises(InputError) as caught:
        building.check(llmkit.read_recipe(recipe))
    return [str(caught.value), *caught.value.details]


def test_check_accepts_a_recipe(make_recipe):
    building.check(llmkit.read_recipe(make_recipe()))


def test_check_names_the_nearest_key_of_a_config(make_recipe):
    recipe = make_recipe(model={"config": {"n_layr": 3}})
    assert problems(recipe) == ["recipe: model.config.n_layr: gpt2 has no such key; did you mean 'n_layer'?"]


def test_check_names_the_nearest_model_type(make_recipe):
    recipe = make_recipe(model={"config": {"model_type": "gtp2"}})
    assert problems(recipe) == [
        "recipe: model.config.model_type: transformers has no model_type 'gtp2'; did you mean 'gpt2'?"
    ]


def test_check_gives_the_reason_of_a_config_class(make_recipe):
    (problem,) = problems(make_recipe(model={"config": {"n_layer": "two"}}))
    assert problem.startswith("model.config: gpt2 refuses it: ")
    assert "n_layer" in problem


def test_check_gives_all_problems_at_once_with_their_places(make_recipe, tmp_path):
    from llmkit.recipe.reading import dump_recipe

    recipe = make_recipe(
        model={"config": {"n_layr": 3}}, optim={"name": "adamw"}, data={"encoding": "utf-9"}, log={"to": ["jsonl"]}
    )
    path = tmp_path / "r.yaml"
    path.write_text(dump_recipe(llmkit.read_recipe(recipe)), encoding="utf-8")
    first, *rest = problems(str(path))
    assert first.endswith("has 3 problems")
    assert [line.partition(": ")[0].rpartition(":")[2].isdecimal() for line in rest] == [True, True, True]
    assert [line.partition(": ")[2].partition(":")[0] for line in rest] == [
        "model.config.n_layr",
        "optim.name",
        "data.encoding",
    ]


def test_build_gives_the_librarys_own_objects(make_recipe):
    from transformers import GPT2LMHeadModel

    parts = llmkit.build(make_recipe(data={"eval_rows": 5}))
    assert type(parts.model) is GPT2LMHeadModel
    assert type(parts.optimizer) is torch.optim.AdamW
    assert isinstance(parts.scheduler, torch.optim.lr_scheduler.LambdaLR)
    assert len(parts.eval_dataset) == 5
    row = parts.train_dataset[0]
    assert len(row["input_ids"]) == len(row["document_ids"]) == 32
    assert parts.model.config.vocab_size == len(parts.tokenizer)
    assert parts.model.config.eos_token_id == parts.tokenizer.eos_token_id


def test_build_draws_the_same_weights_for_the_same_seed(make_recipe):
    one, two, other = (llmkit.build(make_recipe(seed=seed)).model.transformer.wte.weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("micro", [8, 2])
def test_parts_under_transformers_trainer_give_the_curve_of_this_loop(make_recipe, tmp_path, micro):
    """The same rows in the same order: a data set of the order's positions, read without shuffling."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    recipe = llmkit.read_recipe(make_recipe(model={"dtype": "float64"}))
    run = llmkit.train(recipe)
    plan = building.plan(recipe)
    parts, curve = plan.parts, []

    class Curve(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                curve.append(logs["loss"])

    class InOrder(Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(range(48))

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return parts.loss(model, inputs, num_items_in_batch)

    rows = [plan.data.train[i] for i in range(48)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=6,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=8 // micro,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = InOrder(
        model=parts.model,
        args=arguments,
        train_dataset=rows,
        data_collator=parts.data_collator,
        optimizers=(parts.optimizer, parts.scheduler),
        callbacks=[Curve()],
    )
    trainer.train()
    import small_runs

    ours = [loss for _, loss in small_runs.read_curve(run.path)]
    assert curve == pytest.approx(ours, rel=1e-6)


def test_trainer_that_takes_the_documents_away_is_refused(make_recipe):
    parts = llmkit.build(make_recipe())
    rows = [{"input_ids": parts.train_dataset[0]["input_ids"]}]
    with pytest.raises(InputError, match="document_ids"):
        parts.data_collator(rows)


@pytest.mark.parametrize("kind", ["list", "datasets", "stream"])
def test_train_takes_the_users_own_data(make_recipe, stories, kind):
    import datasets

    own = datasets.Dataset.from_json(str(stories / "stories.jsonl"))
    recipe = make_recipe(model={"dtype": "float64"})
    expected = llmkit.train(recipe)
    recipe["output_dir"] += f"-{kind}"
    del recipe["data"]["path"]
    data = {"list": own.to_list(), "datasets": own, "stream": own.to_iterable_dataset()}[kind]
    run = llmkit.train(llmkit.read_recipe(recipe, own_data=True), dataset=data)
    import small_runs

    if kind == "stream":  # shuffled in blocks
        assert len(small_runs.read_curve(run.path)) == 6
    else:
        assert small_runs.read_curve(run.path) == small_runs.read_curve(expected.path)


def test_plan_settles_micro_batches_and_refuses_what_is_not_whole(make_recipe):
    recipe = llmkit.read_recipe(make_recipe())
    assert building.plan(recipe, num_processes=2).recipe.train.micro_batch_size == 4
    recipe = llmkit.read_recipe(make_recipe(train={"micro_batch_size": 4}))
    with pytest.raises(InputError, match="8 = 4 x 4 x accumulation has no whole solution; nearest is 2"):
        building.plan(recipe, num_processes=4)


def test_plan_refuses_a_row_longer_than_the_context(make_recipe):
    with pytest.raises(InputError, match=r"data.max_length: 64 exceeds the model's context of 32"):
        llmkit.build(make_recipe(data={"max_length": 64}))


def test_plan_refuses_a_model_that_sees_what_it_should_predict(make_recipe):
    recipe = make_recipe(data={"pack": False})
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    recipe["model"]["config"] = {"model_type": "bert", "max_position_embeddings": 32, **shape}
    with pytest.raises(InputError, match=r"bert sees the tokens it should predict; a config may need is_decoder: true"):
        llmkit.build(recipe)
    recipe["model"]["config"]["is_decoder"] = True
    llmkit.build(recipe)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"eval": {"num_batches": 2}}, r"eval.num_batches: there are no evaluation data"),
        (
            {"schedule": {"name": "cosine", "num_warmup_steps": 999}, "train": {"num_epochs": 1, "max_steps": None}},
            r"schedule.num_warmup_steps: 999 exceeds the \d+ steps of train.num_epochs",
        ),
        ({"schedule": {"kwargs": {"num_cycles": 2}}}, r"schedule.kwargs: 'constant' takes none, got num_cycles"),
        ({"optim": {"kwargs": {"differentiable": True}}}, r"optim: torch.optim.AdamW cannot take a step: "),
    ],
)
def test_plan_refuses_keys_that_cannot_act(make_recipe, stories, changes, sentence):
    import datasets

    own = datasets.Dataset.from_json(str(stories / "stories.jsonl"))
    with pytest.raises(InputError, match=sentence) as caught:
        llmkit.build(make_recipe(**changes), dataset=own)
    assert not caught.value.details


def test_check_refuses_arguments_that_llmkit_sets_itself(make_recipe, make_checkpoint):
    recipe = make_recipe()
    recipe["model"] = {"name": str(make_checkpoint("gpt2")), "kwargs": {"dtype": "float16"}}
    assert problems(recipe) == ["recipe: model.kwargs.dtype: llmkit sets it itself"]


BLOOM = {"model_type": "bloom", "n_layer": 1, "n_head": 2, "hidden_size": 16}


def bloom(make_recipe, **changes):
    recipe = make_recipe(**changes)
    recipe["model"]["config"] = BLOOM
    return recipe


def test_plan_refuses_to_pack_where_documents_cannot_be_kept_apart(make_recipe):
    with pytest.raises(InputError, match=r"bloom cannot keep packed documents apart; set data.pack: false"):
        llmkit.build(bloom(make_recipe, data={"pack": True}))


def test_plan_packs_nothing_where_documents_cannot_be_kept_apart_and_nobody_asked(make_recipe, notes):
    parts = llmkit.build(bloom(make_recipe))
    assert "bloom cannot keep packed documents apart: a row holds one document" in notes
    assert set(parts.data_collator([parts.train_dataset[0]])) == {"input_ids", "labels", "attention_mask"}


def test_plan_needs_a_length_where_the_model_states_none(make_recipe):
    recipe = bloom(make_recipe)
    del recipe["data"]["max_length"]
    with pytest.raises(InputError, match=r"data.max_length: the model states no context; set it"):
        llmkit.build(recipe)


def test_plan_needs_a_tokenizer(make_recipe):
    recipe = make_recipe()
    del recipe["model"]["tokenizer"]
    with pytest.raises(InputError, match=r"a new model needs a tokenizer, got none; expected model.tokenizer: FOLDER"):
        llmkit.build(recipe)


def test_plan_takes_the_tokenizer_of_token_shards(make_recipe, make_checkpoint, stories):
    from llmkit.data.caching import prepare_store
    from llmkit.loading import load_tokenizer
    from llmkit.recipe.schema import SourceSpec

    spec = SourceSpec(path=str(stories / "stories.jsonl"))
    store = prepare_store(spec, load_tokenizer(stories / "tokenizer"), split="train", on_bad="error", end_of_text=True)
    recipe = make_recipe(data={"path": str(store.folder)})
    del recipe["model"]["tokenizer"]
    assert len(llmkit.build(recipe).train_dataset) == len(llmkit.build(make_recipe()).train_dataset)
    small = make_checkpoint("gpt2", tokenizer="wordpiece")
    recipe["model"] = {"name": str(small)}
    with pytest.raises(InputError, match=rf"^model.tokenizer: it has \d+ tokens, the embedding of {small} 205 rows$"):
        llmkit.build(recipe)
    recipe["model"]["tokenizer"] = str(stories / "tokenizer")
    with pytest.raises(InputError, match=r"^the tokenizer of .* has \d+ tokens, the embedding only 205 rows$"):
        llmkit.build(recipe)


def test_plan_starts_from_a_checkpoint(make_recipe, make_checkpoint):
    folder = make_checkpoint("gpt2")
    recipe = make_recipe(data={"max_length": 32})
    recipe["model"] = {"name": str(folder), "kwargs": {"resid_pdrop": 0.25}, "attn_implementation": "eager"}
    model = llmkit.build(recipe).model
    assert model.config.resid_pdrop == 0.25
    assert model.config._attn_implementation == "eager"
    theirs = llmkit.load(folder, device="cpu").model
    assert torch.equal(model.transformer.wte.weight, theirs.transformer.wte.weight)


def test_plan_refuses_a_vocabulary_that_contradicts_the_tokenizer(make_recipe):
    with pytest.raises(InputError, match=r"model.config.vocab_size: the tokenizer has \d+, got 9; leave it out"):
        llmkit.build(make_recipe(model={"config": {"vocab_size": 9}}))


def test_plan_gives_the_reason_where_a_model_cannot_be_built(make_recipe):
    with pytest.raises(InputError, match=r"model.config: gpt2 cannot be built: .*divisible"):
        llmkit.build(make_recipe(model={"config": {"n_head": 3}}))


def test_plan_refuses_a_prompt_that_leaves_no_room(make_recipe):
    with pytest.raises(InputError, match=r"eval.generate: a prompt has \d+ tokens, the model's context 32: '今天"):
        llmkit.build(make_recipe(eval={"generate": ["今天天气很好" * 20]}))


def test_plan_refuses_a_prompt_that_leaves_no_room_beside_virtual_tokens(make_recipe, make_checkpoint):
    recipe = make_recipe(adapter={"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})
    recipe["model"], prompt = {"name": str(make_checkpoint("gpt2"))}, "a"
    context = llmkit.load(recipe["model"]["name"], device="cpu").model.config.n_positions
    recipe["data"]["max_length"] = 16
    for length, fits in ((context - 5, True), (context - 4, False)):
        recipe["eval"] = {"generate": [prompt * length]}
        if fits:
            assert building.plan(llmkit.read_recipe(recipe))
        else:
            with pytest.raises(InputError, match=f"a prompt has {length} tokens, the model's context {length}: "):
                building.plan(llmkit.read_recipe(recipe))


def test_plan_refuses_layers_left_out_at_random_in_several_processes(make_recipe):
    config = {"model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16}
    config |= {"word_embed_proj_dim": 16, "max_position_embeddings": 32, "layerdrop": 0.1}
    recipe = make_recipe()
    recipe["model"]["config"] = config
    settled = llmkit.read_recipe(recipe)
    assert building.plan(settled)
    sentence = "model.config: opt leaves out layers at random, which several processes cannot; set layerdrop: 0.0"
    with pytest.raises(InputError, match=f"{sentence}$"):
        building.plan(settled, num_processes=2)
    config["layerdrop"] = 0.0
    assert building.plan(llmkit.read_recipe(recipe), num_processes=2)


def test_plan_reads_a_float64_checkpoint_without_rounding(make_recipe, make_checkpoint, tmp_path):
    base = str(make_checkpoint("gpt2"))
    model = llmkit.load(base, device="cpu", dtype="float64").model
    with torch.no_grad():
        model.transformer.wte.weight += 1e-12
    model.save_pretrained(tmp_path / "precise")
    recipe = make_recipe(data={"max_length": 32})
    recipe["model"] = {"name": str(tmp_path / "precise"), "tokenizer": base, "dtype": "float64"}
    assert torch.equal(llmkit.build(recipe).model.transformer.wte.weight, model.transformer.wte.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_build_gives_rows_that_its_collator_takes_and_no_cache(kind, tmp_path):
    parts = llmkit.build(objective_recipe(kind, tmp_path, data={"eval_rows": 4}))
    for dataset in (parts.train_dataset, parts.eval_dataset):
        batch = parts.data_collator([dataset[i] for i in range(4)])
        loss = parts.loss(parts.model, batch, 1)
        assert torch.isfinite(loss)
        inputs = {name: value for name, value in batch.items() if name not in LABELS}
        assert getattr(parts.model(**inputs), "past_key_values", None) is None


def train_low(make_recipe, **train):
    """Train four steps and give the losses; what is saved is the plain model in float32."""
    import small_runs
    from safetensors.torch import load_file

    run = llmkit.train(make_recipe(train={"max_steps": 4, **train}))
    weights = load_file(run.path / "final" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert "transformer.wte.weight" in weights
    return [loss for _, loss in small_runs.read_curve(run.path)]


def test_bf16_follows_float32(make_recipe, tmp_path):
    low = train_low(make_recipe, mixed_precision="bf16")
    recipe = make_recipe(train={"max_steps": 4, "mixed_precision": "no"}, output_dir=str(tmp_path / "full"))
    import small_runs

    full = [loss for _, loss in small_runs.read_curve(llmkit.train(recipe).path)]
    assert low == pytest.approx(full, rel=0.01)
    assert low != full


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_follows_eager(make_recipe, tmp_path):
    """83 s on two cores: the compiler writes C++."""
    import small_runs

    compiled = train_low(make_recipe, compile=True)
    recipe = make_recipe(train={"max_steps": 4}, output_dir=str(tmp_path / "eager"))
    assert compiled == pytest.approx([x for _, x in small_runs.read_curve(llmkit.train(recipe).path)], rel=1e-5)


def test_accelerator_of_another_kind_is_refused(make_recipe):
    from accelerate import Accelerator

    with pytest.raises(InputError, match="gradient_accumulation_steps of the Accelerator, got 4; expected 1"):
        llmkit.train(make_recipe(), accelerator=Accelerator(gradient_accumulation_steps=4))


def test_virtual_tokens_take_places_and_forbid_packing(make_recipe, make_checkpoint):
    base, prompt = str(make_checkpoint("gpt2")), {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}
    recipe = make_recipe(adapter=prompt, data={"max_length": None})
    recipe["model"] = {"name": base}
    plan = building.plan(llmkit.read_recipe(recipe))
    context = plan.parts.model.get_base_model().config.n_positions
    assert (plan.recipe.data.max_length, plan.recipe.data.pack) == (context - 4, False)
    recipe["data"]["pack"] = True
    with pytest.raises(InputError, match=r"data.pack: PROMPT_TUNING cannot keep packed documents apart"):
        building.plan(llmkit.read_recipe(recipe))
    recipe["data"] = {**recipe["data"], "pack": None, "max_length": context}
    with pytest.raises(InputError, match=f"{context} exceeds the model's context of {context - 4} beside 4 virtual"):
        building.plan(llmkit.read_recipe(recipe))


@pytest.mark.parametrize("kind", ["completion", "seq2seq", "classification", "question-answering"])
def test_ledger_counts_the_tokens_and_targets_of_examples(kind, tmp_path):
    plan = building.plan(llmkit.read_recipe(objective_recipe(kind, tmp_path, data={"eval_rows": 7})))
    for rows in (plan.data.train.rows, plan.data.held_out[0].rows):
        labels = [row.get("labels", row.get("start_positions")) for row in rows]
        expected = sum(len(row["input_ids"]) for row in rows), sum(int((label != -100).sum()) for label in labels)
        assert rows.count() == expected


def test_ledger_tells_the_rows_to_train_on_from_those_held_out(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(12)]
    recipe = llmkit.read_recipe(objective_recipe("classification", tmp_path))
    plan = building.plan(recipe, dataset=rows, eval_dataset=rows[:4])
    told = [line.split("(")[0].split() for line in str(plan.data.ledger).splitlines() if line.startswith("  rows")]
    assert told == [["rows", "12", "trained", "on"], ["rows", "4", "held", "out"]]
    assert plan.data.ledger.evaluation.held_out == 4
