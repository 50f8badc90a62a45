"""A step is saved so that training goes on from it bit for bit, and so that transformers loads it."""

import copy
import json
import warnings

import pytest
import torch
from conftest import FAMILIES, byte_level_tokenizer, tiny_model
from safetensors import safe_open
from small_adapters import FAMILIES as ADAPTED
from small_adapters import METHODS, describe, lay, logits, store
from small_adapters import make_optimizer as make_adamw
from small_adapters import train as train_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llmkit import runfolder
from llmkit.errors import DamagedError, RunError
from llmkit.loading import load
from llmkit.training import saving
from llmkit.training.adapter_state import gather_plain


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


def adamw(model, **options):
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=True, **options)


OPTIMIZERS = {
    "AdamW": adamw,
    "AdamW amsgrad": lambda model: adamw(model, amsgrad=True),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2),
    "SGD momentum": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, nesterov=True),
}
PLAIN = ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop")


def make_optimizer(name, model):
    if name in OPTIMIZERS:
        return OPTIMIZERS[name](model)
    return getattr(torch.optim, name)(model.parameters(), lr=1e-3)


def train(model, optimizer, *steps):
    for step in steps:
        ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def freeze(value):
    """All of a state that counts, to be compared: kinds, dtypes and bits."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).tolist())
    if isinstance(value, dict):
        return {key: freeze(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return (type(value), [freeze(inner) for inner in value])
    return (type(value), value)


@pytest.mark.parametrize("name", [*OPTIMIZERS, *PLAIN])
def test_resumed_training_equals_training_that_went_on(tmp_path, tokenizer, name):
    model = tiny_model("gpt2", 400, n_layer=1)
    optimizer = make_optimizer(name, model)
    train(model, optimizer, 1, 2)
    before = freeze(optimizer.state_dict())
    folder = saving.save_step(tmp_path, 2, model, tokenizer, optimizer, {"position": 8, "名": [0.1, None]}, keep=1)
    assert freeze(optimizer.state_dict()) == before

    resumed = tiny_model("gpt2", 400, seed=1, n_layer=1)
    its_optimizer = make_optimizer(name, resumed)
    assert saving.load_step(folder, resumed, its_optimizer) == {"position": 8, "名": [0.1, None]}
    assert freeze(its_optimizer.state_dict()) == before
    assert freeze(resumed.state_dict()) == freeze(model.state_dict())
    for kept in ((model, optimizer), (resumed, its_optimizer)):
        train(*kept, 3)
    assert freeze(its_optimizer.state_dict()) == freeze(optimizer.state_dict())
    assert freeze(resumed.state_dict()) == freeze(model.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_step_of_a_family_is_restored(tmp_path, tokenizer, family):
    model = tiny_model(family, 400)
    optimizer = adamw(model)
    train(model, optimizer, 1)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, optimizer, {}, keep=1)
    resumed = tiny_model(family, 400, seed=1)
    saving.load_step(folder, resumed, adamw(resumed))
    assert freeze(resumed.state_dict()) == freeze(model.state_dict())


def test_step_before_the_first_update_leaves_the_optimizer_new(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    optimizer = adamw(model)
    folder = saving.save_step(tmp_path, 0, model, tokenizer, optimizer, {}, keep=1)
    assert len(optimizer.state) == 0
    saving.load_step(folder, model, optimizer)
    assert len(optimizer.state) == 0


def test_parameter_that_never_had_a_gradient_stays_without_state(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    model.transformer.ln_f.bias.requires_grad_(False)
    optimizer = adamw(model)
    train(model, optimizer, 1)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, optimizer, {}, keep=1)
    resumed = tiny_model("gpt2", 400, n_layer=1)
    its_optimizer = adamw(resumed)
    saving.load_step(folder, resumed, its_optimizer)
    assert freeze(its_optimizer.state_dict()) == freeze(optimizer.state_dict())
    assert resumed.transformer.ln_f.bias not in its_optimizer.state


def test_state_that_is_no_tensor_comes_back(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.lm_head.weight].update(momentum_buffer=None, count=3, rate=0.1 + 0.2)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, optimizer, {}, keep=1)
    resumed = torch.optim.SGD(model.parameters(), lr=0.1)
    saving.load_step(folder, model, resumed)
    assert freeze(resumed.state_dict()) == freeze(optimizer.state_dict())


def test_learning_rate_and_other_settings_of_the_groups_come_back(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    optimizer = adamw(model)
    optimizer.param_groups[1].update(lr=0.1 + 0.2, initial_lr=3e-4, betas=(0.5, 0.6))
    folder = saving.save_step(tmp_path, 1, model, tokenizer, optimizer, {}, keep=1)
    resumed = adamw(model)
    saving.load_step(folder, model, resumed)
    assert freeze(resumed.state_dict()["param_groups"]) == freeze(optimizer.state_dict()["param_groups"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_loads_in_transformers_as_it_was(tmp_path, tokenizer, dtype):
    model = tiny_model("gpt2", 400).to(dtype)
    model.generation_config = GenerationConfig(max_new_tokens=7, eos_token_id=0, do_sample=True, temperature=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = saving.save_step(tmp_path, 200, model, tokenizer, adamw(model), {}, keep=1)
    assert folder == tmp_path / "checkpoints" / "step-000200"
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert freeze(loaded.state_dict()) == freeze(model.state_dict())
    assert loaded.dtype == dtype
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert loaded.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()
    assert AutoTokenizer.from_pretrained(folder)("你好 a").input_ids == tokenizer("你好 a").input_ids


def test_step_holds_no_pickle_and_a_shared_weight_once(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, adamw(model), {}, keep=1)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {f for f in files if not f.endswith(".json")} == {"model.safetensors", "state/optimizer.safetensors"}
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert "lm_head.weight" not in stored.keys()  # noqa: SIM118 (it is no mapping)
        assert "transformer.wte.weight" in stored.keys()  # noqa: SIM118
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"].keys() == files - {"manifest.json"}


def test_weights_that_are_shared_stay_so_after_a_resume(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, adamw(model), {}, keep=1)
    kept = dict(model.named_parameters())
    saving.load_step(folder, model, adamw(model))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(parameter is kept[name] for name, parameter in model.named_parameters())


def test_steps_beyond_keep_go_after_the_new_one_is_there(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    for step in (1, 2, 3):
        saving.save_step(tmp_path, step, model, tokenizer, adamw(model), {}, keep=2)
    assert [p.name for p in runfolder.steps(tmp_path)] == ["step-000003", "step-000002"]


def test_metrics_reach_the_disk_before_the_step_does(tmp_path, tokenizer):
    synced = []

    class Disk(runfolder.Disk):
        def sync(self, path):
            synced.append(path.name)

    model = tiny_model("gpt2", 400, n_layer=1)
    runfolder.append_metrics(tmp_path / "metrics.jsonl", {"step": 1})
    saving.save_step(tmp_path, 1, model, tokenizer, adamw(model), {}, keep=1, disk=Disk())
    assert synced[0] == "metrics.jsonl"
    assert synced[-1] == "checkpoints"


def test_another_process_than_the_first_writes_nothing(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    saving.save_step(tmp_path, 1, model, tokenizer, adamw(model), {}, keep=1, is_main=False)
    saving.save_checkpoint(tmp_path / "best", model, tokenizer, {}, is_main=False)
    assert list(tmp_path.iterdir()) == []


def test_state_that_json_cannot_hold_is_refused_and_nothing_stays(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        saving.save_step(tmp_path, 1, model, tokenizer, adamw(model), {"loss": float("nan")}, keep=1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_full_disk_says_what_is_intact(tmp_path, tokenizer):
    class Disk(runfolder.Disk):
        def fill(self, folder, writer):
            super().fill(folder, writer)
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    model = tiny_model("gpt2", 400, n_layer=1)
    optimizer = adamw(model)
    saving.save_step(tmp_path, 700, model, tokenizer, optimizer, {}, keep=1)
    with pytest.raises(RunError) as caught:
        saving.save_step(tmp_path, 800, model, tokenizer, optimizer, {}, keep=1, disk=Disk())
    assert str(caught.value) == "disk full while saving step 800; step 700 is intact"
    with pytest.raises(RunError) as caught:
        saving.save_checkpoint(tmp_path / "final", model, tokenizer, {}, disk=Disk())
    assert str(caught.value) == "disk full while saving final/; step 700 is intact"
    assert sorted(p.name for p in tmp_path.rglob("*") if "step-000700" not in str(p)) == ["checkpoints"]


def test_checkpoint_for_use_holds_the_facts_and_replaces_the_one_before(tmp_path, tokenizer):
    for seed in (0, 1):
        model = tiny_model("gpt2", 400, seed=seed)
        facts = {"task": "generation", "max_length": 64, "语言": seed}
        saving.save_checkpoint(tmp_path / "best", model, tokenizer, facts)
        assert runfolder.read_facts(tmp_path / "best") == facts
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "best")
        assert freeze(loaded.state_dict()) == freeze(model.state_dict())
    assert runfolder.find_damage(tmp_path / "best") is None
    assert not (tmp_path / "best" / "state").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def refused(folder, model, optimizer):
    """Load what must be refused; neither may have changed."""
    before = freeze([model.state_dict(), optimizer.state_dict()])
    with pytest.raises(DamagedError) as caught:
        saving.load_step(folder, model, optimizer)
    assert freeze([model.state_dict(), optimizer.state_dict()]) == before
    return str(caught.value)


def test_step_of_another_model_is_refused_before_anything_changes(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, adamw(model), {}, keep=1)
    wider, deeper = tiny_model("gpt2", 300, seed=1), tiny_model("gpt2", 400, seed=1, n_layer=3)
    double = tiny_model("gpt2", 400, seed=1).double()
    name, more = "transformer.wte.weight", "transformer.h.2.ln_1.weight"
    start = f"{folder} is of another model:"
    assert refused(folder, wider, adamw(wider)) == (
        f"{start} {name} is float32 (400, 32) there, expected float32 (300, 32)"
    )
    assert refused(folder, double, adamw(double)) == (
        f"{start} {name} is float32 (400, 32) there, expected float64 (400, 32)"
    )
    assert refused(folder, deeper, adamw(deeper)) == f"{start} {more} is missing there, expected float32 (32,)"


def test_step_of_another_optimizer_is_refused_before_anything_changes(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, adamw(model), {}, keep=1)
    other = tiny_model("gpt2", 400, seed=1)
    sentence = f"{folder} is of another optimizer: its groups hold other parameters than those of this run"
    assert refused(folder, other, torch.optim.AdamW(other.parameters())) == sentence


def test_restored_state_is_memory_of_its_own(tmp_path, tokenizer):
    model = tiny_model("gpt2", 400, n_layer=1)
    optimizer = adamw(model)
    train(model, optimizer, 1)
    folder = saving.save_step(tmp_path, 1, model, tokenizer, optimizer, {}, keep=1)
    saving.load_step(folder, model, optimizer)
    before = copy.deepcopy(freeze([model.state_dict(), optimizer.state_dict()]))
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    assert freeze([model.state_dict(), optimizer.state_dict()]) == before


# adapters


def all_of(model, optimizer):
    return freeze([model.state_dict(), optimizer.state_dict(), logits(model)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ADAPTED)
def test_resumed_adapter_equals_one_that_went_on(make_checkpoint, tmp_path, tokenizer, family, method):
    base = make_checkpoint(family, ADAPTED[family])
    model = lay(base, method)
    optimizer = make_adamw(model)
    train_adapter(model, optimizer, 1, 2, 3)
    facts, config = describe(base)
    folder = saving.save_step(tmp_path, 3, model, tokenizer, optimizer, {}, keep=1, facts=facts, base=config)
    assert runfolder.read_facts(folder) == facts
    assert not (folder / "config.json").exists()
    assert (folder / "adapter_config.json").is_file()
    resumed = lay(base, method)
    its_optimizer = make_adamw(resumed)
    saving.load_step(folder, resumed, its_optimizer)
    assert all_of(resumed, its_optimizer) == all_of(model, optimizer)
    for kept in ((model, optimizer), (resumed, its_optimizer)):
        train_adapter(*kept, 4, 5, 6)
    assert all_of(resumed, its_optimizer) == all_of(model, optimizer)


@pytest.mark.parametrize("target", ["wte", "lm_head"])
def test_resumed_factors_of_a_tied_weight_have_the_moments_that_are_theirs(
    make_checkpoint, tmp_path, tokenizer, target
):
    base = make_checkpoint("gpt2")
    model = lay(base, "lora", target_modules=[target])
    assert not all(p.is_contiguous() for p in model.parameters())  # peft ties the factors as views, one transposed
    optimizer = make_adamw(model)
    train_adapter(model, optimizer, 1, 2, 3)
    folder = saving.save_step(tmp_path, 3, model, tokenizer, optimizer, {}, keep=1)
    resumed = lay(base, "lora", target_modules=[target])
    its_optimizer = make_adamw(resumed)
    saving.load_step(folder, resumed, its_optimizer)
    for kept in ((model, optimizer), (resumed, its_optimizer)):
        train_adapter(*kept, 4, 5)
    assert all_of(resumed, its_optimizer) == all_of(model, optimizer)


TYPED = [(method, "float32") for method in METHODS]
TYPED += [
    (method, "float64") for method in METHODS if not method.startswith("pissa")
]  # peft 0.21.2 begins it in float32, float16 or bfloat16 alone


@pytest.mark.parametrize(("method", "dtype"), TYPED)
def test_stored_adapter_is_loaded_bit_for_bit_in_its_type(make_checkpoint, tmp_path, method, dtype):
    base = make_checkpoint("gpt2")
    model = lay(base, method, dtype=dtype)
    train_adapter(model, make_adamw(model), 1, 2, 3)
    store(model, base, tmp_path / "ad")
    again = load(tmp_path / "ad", device="cpu", dtype=dtype).model
    assert freeze(gather_plain(again)[1]) == freeze(gather_plain(model)[1])


def test_adalora_goes_on_after_its_ranks_are_settled(make_checkpoint, tmp_path, tokenizer):
    base = make_checkpoint("gpt2")
    model = lay(base, "adalora")
    optimizer = make_adamw(model)
    train_adapter(model, optimizer, 1, 2, 3, 4, 5, 6)
    folder = saving.save_step(tmp_path, 6, model, tokenizer, optimizer, {}, keep=1)
    resumed = lay(base, "adalora")
    its_optimizer = make_adamw(resumed)
    saving.load_step(folder, resumed, its_optimizer)
    for kept in ((model, optimizer), (resumed, its_optimizer)):
        train_adapter(*kept, 7, 8)
    assert all_of(resumed, its_optimizer) == all_of(model, optimizer)


def test_step_of_an_adapter_is_an_adapter_for_use(make_checkpoint, tmp_path, tokenizer):
    base = make_checkpoint("gpt2")
    model = lay(base, "pissa")  # in float32, hence 1e-5: peft refuses to begin it in float64
    optimizer = make_adamw(model)
    train_adapter(model, optimizer, 1, 2)
    facts, config = describe(base)
    folder = saving.save_step(tmp_path, 2, model, tokenizer, optimizer, {}, keep=1, facts=facts, base=config)
    found, expected = logits(load(folder, device="cpu").model), logits(model)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_first_factors_of_another_machine_are_taken_out_of_the_base(make_checkpoint, tmp_path, tokenizer):
    base = make_checkpoint("gpt2")
    model = lay(base, "pissa_niter_4", seed=1)
    optimizer = make_adamw(model)
    train_adapter(model, optimizer, 1, 2)
    folder = saving.save_step(tmp_path, 2, model, tokenizer, optimizer, {}, keep=1)
    resumed = lay(base, "pissa_niter_4", seed=2)  # other draws of the randomised decomposition
    saving.load_step(folder, resumed, make_adamw(resumed))
    expected = logits(model)
    assert (logits(resumed) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_step_of_another_adapter_is_refused_before_anything_changes(make_checkpoint, tmp_path, tokenizer):
    base = make_checkpoint("gpt2")
    model = lay(base, "lora")
    folder = saving.save_step(tmp_path, 1, model, tokenizer, make_adamw(model), {}, keep=1)
    other = lay(base, "lora", r=8)
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight"
    assert refused(folder, other, make_adamw(other)) == (
        f"{folder} is of another adapter: {name} is float32 (4, 32) there, expected float32 (8, 32)"
    )


def test_adapter_for_use_is_stored_in_the_type_asked_for_with_its_generation_config(
    make_checkpoint, tmp_path, tokenizer
):
    base = make_checkpoint("gpt2")
    model = lay(base, "lora")
    facts, config = describe(base)
    saving.save_checkpoint(
        tmp_path / "final",
        model,
        tokenizer,
        facts,
        dtype=torch.bfloat16,
        generation_config={"max_new_tokens": 5},
        base=config,
    )
    with safe_open(tmp_path / "final" / "adapter_model.safetensors", "pt") as stored:
        assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert load(tmp_path / "final", device="cpu").model.generation_config.max_new_tokens == 5
