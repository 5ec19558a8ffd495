"""The training step beyond parity: carry, exploration, schedule, EMA, checkpoints that go on exactly."""

import copy
import dataclasses
import re
from functools import partial, partialmethod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from support.training import small_learner, small_stream
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from air_hf.cores import cores_of_a_process
from air_hf.data import PuzzleStream
from air_hf.hub import CheckpointError, load_model, training_facts
from air_hf.recipes import recipe_names
from air_hf.run_recipe import RunRecipe
from air_hf.runs import load_checkpoint, save_checkpoint
from air_hf.runs.arguments import parse_recipe
from air_hf.training import Learner, Recipe, precision_for
from air_hf.training.backend import should_compile
from air_hf.training.carry import draw_least_segments, has_halted, initial_carry, refill
from air_hf.training.optimizers import PrefixSignSGD, scheduled_lr

BATCH = 12


@pytest.fixture(scope="module")
def stream() -> PuzzleStream:
    return small_stream(BATCH)


make_learner = partial(small_learner, batch_size=BATCH)


def test_refill_touches_halted_slots_only(make_model, stream):
    model = make_model()
    carry = initial_carry(model, stream.batch(0))
    carry.state = model(stream.batch(0)["input_ids"]).state
    carry.halted = torch.arange(BATCH) % 3 == 0
    refilled = refill(model, carry, stream.batch(1))
    fresh = model.initial_state(BATCH)
    for slot in range(BATCH):
        source = stream.batch(1) if slot % 3 == 0 else stream.batch(0)
        state = fresh if slot % 3 == 0 else carry.state
        assert torch.equal(refilled.batch["input_ids"][slot], source["input_ids"][slot])
        assert torch.equal(refilled.batch["labels"][slot], source["labels"][slot])
        assert torch.equal(refilled.state.z_h[slot], state.z_h[slot])
        assert refilled.state.num_segments[slot] == state.num_segments[slot]


@pytest.mark.parametrize("halting", ["q_learning", "halt_only"])
def test_halting_rule(make_model, stream, halting):
    model = make_model(halting=halting)
    output = model(stream.batch(0)["input_ids"])
    output.state.num_segments = torch.tensor([1, 2, 3, 4] * 3)
    least = torch.tensor([0] * 4 + [3] * 4 + [4] * 4)
    expected = []
    for slot in range(BATCH):
        q_halt, q_continue = output.q_halt_logits[slot].item(), output.q_continue_logits[slot].item()
        wishes = q_halt > (q_continue if halting == "q_learning" else 0)
        count = slot % 4 + 1
        expected.append(count >= 4 or (wishes and count >= least[slot]))
    assert has_halted(model, output, least).tolist() == expected


def test_exploration():
    rng = np.random.default_rng(0)
    least = draw_least_segments(100_000, 5, 0.3, 0.0, rng)
    counts = torch.bincount(least, minlength=6) / len(least)
    assert counts[1] == 0
    assert counts[0].item() == pytest.approx(0.7, abs=0.01)
    assert counts[2:].tolist() == pytest.approx([0.075] * 4, abs=0.005)
    assert draw_least_segments(10, 1, 1.0, 1.0, rng).tolist() == [0] * 10


def test_delayed_halting():
    """A slot that wishes to halt from the first segment on stays for a geometrically distributed number of them."""
    rng = np.random.default_rng(0)
    waiting, stayed = torch.ones(20_000, dtype=torch.bool), torch.zeros(20_000)
    for _ in range(40):
        stayed += waiting
        waiting &= draw_least_segments(20_000, 100, 0.0, 0.75, rng) > 0
    assert stayed.mean().item() == pytest.approx(1 / (1 - 0.75), rel=0.03)
    assert set(draw_least_segments(1000, 7, 0.0, 0.5, rng).tolist()) == {0, 7}


def test_delay_leaves_exploration_alone():
    """It is drawn after exploration, from the same generator, so that a run without it is what it was."""
    draws = [draw_least_segments(50, 9, 0.3, delay, np.random.default_rng(5)) for delay in (0.0, 0.4)]
    held = draws[1] == 9
    assert torch.equal(draws[0][~held], draws[1][~held])
    assert 10 < held.sum() < 40


def test_schedule():
    rates = [scheduled_lr(step, 2.0, 4, 14, 0.1) for step in range(1, 16)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[8] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way
    assert rates[13] == rates[14] == pytest.approx(0.2)
    assert all(scheduled_lr(step, 2.0, 0, 10, 1.0) == pytest.approx(2.0) for step in (1, 5, 10))


class WaitsCounted(TorchDispatchMode):
    """Counts the operations whose result the host must know, for which it waits where they run elsewhere."""

    NAMES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique")
    waits = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.name().startswith(self.NAMES):
            self.waits += 1
        return operation(*args, **kwargs or {})


@pytest.mark.parametrize("halting", ["q_learning", "halt_only"])
def test_a_step_waits_for_the_device_once(make_model, stream, monkeypatch, halting):
    # Ids are looked at on a CPU only.
    monkeypatch.setattr("air_hf.modeling.modeling_air._check_integers", lambda *args, **kwargs: None)
    learner = make_learner(make_model(halting=halting), ema_decay=0.9, slots_out_of_step=True, state_noise=0.1)
    learner.train_step(stream.batch(0))
    with WaitsCounted() as counted:
        learner.train_step(stream.batch(1))
    assert counted.waits == 1  # whether the gradient is finite, before it changes the weights


def test_prefix_sign_sgd_moves_used_rows_only():
    table = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0]]))
    table.grad = torch.tensor([[0.3, -0.2], [0.0, 0.0], [9.0, 9.0]])
    PrefixSignSGD([table], lr=0.1, weight_decay=0.5).step(torch.tensor([0, 1, 0]))
    expected = [[1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1], [3.0 * 0.95, 4.0 * 0.95], [5.0, 6.0]]
    torch.testing.assert_close(table.data, torch.tensor(expected))


def test_ema_by_hand(make_model, stream):
    model = make_model()
    learner = make_learner(model, ema_decay=0.5)
    expected = copy.deepcopy(model.lm_head.weight.data)
    for step in range(1, 11):
        learner.train_step(stream.batch(step - 1))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.lm_head.weight.data
    own = model.lm_head.weight.data.clone()
    with learner.ema.applied_to(model):
        torch.testing.assert_close(model.lm_head.weight.data, expected)
    assert torch.equal(model.lm_head.weight.data, own)


@pytest.mark.parametrize("variant", ["Lx_H", "trm-mlp"])
def test_training_lowers_the_loss(make_model, stream, variant):
    learner = make_learner(make_model(variant, hidden_size=64), learning_rate=3e-3, warmup_steps=10)
    losses = [float(learner.train_step(stream.batch(step))["lm_loss"]) / BATCH for step in range(80)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("variant", ["Lx_H", "L2x_H2x-prepend-keep", "trm-mlp"])
def test_a_resumed_run_is_the_uninterrupted_one(make_model, stream, variant, tmp_path):
    whole = make_learner(make_model(variant))
    for step in range(8):
        whole.train_step(stream.batch(step))
    first = make_learner(make_model(variant))
    for step in range(5):
        first.train_step(stream.batch(step))
    save_checkpoint(first, tmp_path / "checkpoint")
    second = make_learner(make_model(variant, seed=1))
    load_checkpoint(second, tmp_path / "checkpoint")
    for step in range(second.step, 8):
        second.train_step(stream.batch(step))
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], expected), name
    assert all(torch.equal(second.ema.averages[name], average) for name, average in whole.ema.averages.items())
    assert torch.equal(second.carry.state.z_l, whole.carry.state.z_l)


def test_resuming_what_is_not_there_or_not_ours(make_model, stream, tmp_path):
    learner = make_learner(make_model(), warmup_steps=1)
    learner.train_step(stream.batch(0))
    learner.train_step(stream.batch(1))
    save_checkpoint(learner, tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"nowhere.*state\.json does not exist; expected a checkpoint folder"):
        load_checkpoint(learner, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"was trained with learning_rate=0\.001; this run has 0\.5"):
        load_checkpoint(make_learner(make_model(), warmup_steps=1, learning_rate=0.5), tmp_path / "checkpoint")
    others = {"hidden_size": 64, "h_cycles": 1, "halting": "halt_only", "input_operator": "negate", "max_segments": 2}
    for name, value in others.items():
        ours = getattr(learner.model.config, name)
        with pytest.raises(CheckpointError, match=f"was trained with {name}={ours!r}; this run has {value!r}"):
            load_checkpoint(make_learner(make_model(**{name: value}), warmup_steps=1), tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="has run 2 steps; max_steps is 1"):
        load_checkpoint(make_learner(make_model(), warmup_steps=1, max_steps=1), tmp_path / "checkpoint")
    load_checkpoint(
        make_learner(make_model(), warmup_steps=1, max_steps=200), tmp_path / "checkpoint"
    )  # longer, at a constant rate
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_failed_save_leaves_the_old_checkpoint(make_model, stream, tmp_path, monkeypatch):
    learner = make_learner(make_model())
    learner.train_step(stream.batch(0))
    save_checkpoint(learner, tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint" / "model.safetensors").read_bytes()
    learner.train_step(stream.batch(1))

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("air_hf.runs.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(learner, tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "model.safetensors").read_bytes() == before
    monkeypatch.undo()
    save_checkpoint(learner, tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "model.safetensors").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_recipes_and_overrides(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("variant: hrm\ntrain_data: here.csv\ntest_data: there.csv\nlearning_rate: 1e-4\naugment: false\n")
    arguments, model = parse_recipe(["--config", str(recipe), "--h_cycles", "3", "--learning_rate", "2e-4"])
    assert (arguments.variant, arguments.learning_rate, arguments.augment) == ("hrm", 2e-4, False)
    assert model == {"h_cycles": 3}
    recipe.write_text("train_data: a.csv\ntest_data: b.csv\ncompile: off\nmixed_precision: no\nmax_minutes:\n")
    arguments, _ = parse_recipe(["--config", str(recipe)])  # YAML reads off and no as false
    assert (arguments.compile, arguments.mixed_precision, arguments.max_minutes) == ("off", "no", None)


def test_text_of_a_recipe_is_taken_as_it_is_written(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    for written in (".1234", "1234.", "01234", '"true"', "1_000"):
        recipe.write_text(f"train_data: a.csv\ntest_data: b.csv\nhub_revision: {written}\n")
        arguments, _ = parse_recipe(["--config", str(recipe)])
        assert arguments.hub_revision == written.strip('"')


def test_data_that_are_typed_take_the_place_of_a_recipes(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train_data: a.csv\ntest_data: b.csv\n")
    words = ["--config", str(recipe), "--dataset", "org/set"]
    arguments, _ = parse_recipe(words)
    assert (arguments.dataset, arguments.train_data, arguments.test_data) == ("org/set", None, None)
    arguments, _ = parse_recipe([*words, "--test_data", "c.csv"])
    assert (arguments.dataset, arguments.test_data) == ("org/set", "c.csv")
    recipe.write_text("dataset: org/set\ndataset_config: 1k\n")
    arguments, _ = parse_recipe(["--config", str(recipe), "--train_data", "a.csv", "--test_data", "b.csv"])
    assert (arguments.dataset, arguments.dataset_config, arguments.train_data) == (None, None, "a.csv")
    for known in recipe_names():
        assert parse_recipe(["--config", known, "--dataset", "org/set"])[0].train_data is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rte", "1"], "unrecognized arguments: --learning_rte"),
        (["--learn", "1"], "unrecognized arguments: --learn"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--learning_rate", "-1"], "learning_rate is -1.0; it must be positive"),
        (["--learning_rate", "nan"], "learning_rate is nan; it must be a finite number"),
        (["--warmup_steps", "11", "--max_steps", "10"], "warmup_steps (11) is more than max_steps (10)"),
        (["--mixer", "average"], "invalid choice: 'average'"),
        (["--ema_decay", "1"], "ema_decay is 1.0; it must be at least 0 and less than 1"),
        (["--config", "nowhere.yaml"], "recipe 'nowhere.yaml' does not exist"),
        (["--train_data", "x.csv"], "test_data is missing, and train_data (x.csv) is not a folder"),
        ([], "train_data is missing"),
    ],
)
def test_bad_arguments(words, message, capsys):
    with pytest.raises(SystemExit):
        parse_recipe(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rte: 1\n", "unknown fields learning_rte; known fields: "),
        ("ema_decay:\n", "ema_decay has no value; leave the line out, or give the field's off value"),
        ("- 1\n", "holds a list; expected fields"),
        ("a: [\n", "is not YAML"),
        ("seed: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("seed: 2026-13-45\n", "is not YAML: month must be in 1..12"),
        ("seed: [1]\n", "seed holds a list; expected one value"),
        ("seed: {a: 1}\n", "seed holds a dict; expected one value"),
        ("seed: true\n", "seed: invalid int value: 'True'"),
        ("seed: 1.5\n", "seed: invalid int value: '1.5'"),
        ("seed: 4294967296\n", "seed is 4294967296; it must not be negative, and less than 2**32"),
        ("augment: perhaps\n", "augment: invalid truth value: 'perhaps'"),
        ("optimizer: sgd\n", "optimizer: invalid choice: 'sgd' (choose from adam_atan2, adamw, muon)"),
        ("num_puzzle_ids: 5\n", "unknown fields num_puzzle_ids"),
        ('train_data: "a\\0b"\ntest_data: c\n', "train_data is 'a\\x00b'; it must not hold a NUL character"),
        ("seed: 1\n# of the weights\nseed: 2\n", "recipe.yaml, line 3: seed is given twice, first in line 1"),
        ("push_to_hub: false\n", "push_to_hub is the truth value False; expected text: leave the line out"),
        ("hub_tags: yes\n", "hub_tags is the truth value True; expected text"),
        ("a: " + 5000 * "[" + "\n", "is nested too deeply; expected one `name: value` a line"),
    ],
)
def test_bad_recipes(content, message, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        parse_recipe(["--config", str(tmp_path / "recipe.yaml")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_recipes_of_another_encoding(encoding, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("train_data: Rätsel\n", encoding=encoding)
    with pytest.raises(SystemExit):
        parse_recipe(["--config", str(tmp_path / "recipe.yaml")])
    assert "recipe.yaml is not UTF-8 text" in capsys.readouterr().err


def test_fields_describe_themselves():
    """Nothing that is only on one machine is published, and what decides the weights may not change on resume."""
    recipe = RunRecipe(train_data="/home/me/puzzles", output_dir="/scratch/me", min_lr_ratio=0.5)
    assert all(entry.metadata["help"] for entry in dataclasses.fields(RunRecipe))
    private = {"train_data", "test_data", "dataset", "output_dir", "resume_from", "init_from", "push_to_hub",
               "family_options", "hub_project_url", "hub_tags", "hub_revision", "hub_license", "cache_dir"}  # fmt: skip
    assert not private & recipe.marked("published").keys()
    assert {"learning_rate", "optimizer", "seed", "batch_size", "max_steps"} <= recipe.settled.keys()
    assert "max_steps" not in dataclasses.replace(recipe, min_lr_ratio=1.0).settled
    assert "max_steps" in dataclasses.replace(recipe, min_lr_ratio=1.0, reveal=0.3).settled  # it falls to 0 there
    assert "max_steps" in dataclasses.replace(recipe, min_lr_ratio=1.0, easy_first=0.3).settled
    assert not {"train_data", "compile", "push_timeout"} & recipe.settled.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": "0"}, "seed is '0'; it must be of type int"),
        ({"batch_size": True}, "batch_size is True; it must be of type int"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; it must be one of adam_atan2, adamw, muon"),
        ({"collective_timeout": 0}, "collective_timeout is 0; it must be positive"),
        ({"push_every": 1}, "push_every is 1, but push_to_hub names no repository"),
        ({"hub_license": "My own!"}, "license is 'My own!'; expected an identifier"),
        ({"hub_project_url": "x"}, "project_url is 'x'; expected an address"),
    ],
)
def test_recipes_made_in_python(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RunRecipe(**fields)


def test_checkpoint_holds_the_averaged_weights(make_model, stream, tmp_path):
    learner = make_learner(make_model(), ema_decay=0.9)
    for step in range(4):
        learner.train_step(stream.batch(step))
    save_checkpoint(learner, tmp_path / "checkpoint")
    saved = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for name, _ in learner.model.named_parameters():
        assert torch.equal(saved[name], learner.ema.averages[name])
    assert not torch.equal(saved["lm_head.weight"], learner.model.lm_head.weight)
    ids = stream.batch(9)["input_ids"]
    learner.model.eval()
    with torch.no_grad(), learner.ema.applied_to(learner.model):
        expected = learner.model(ids).logits
    assert torch.equal(load_model(tmp_path / "checkpoint")(ids).logits, expected)
    assert training_facts(tmp_path / "checkpoint") == {"step": 4, "ema": 0.9}


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_parts_of_a_batch_with_a_token_kept_in_fresh_states(make_model, stream, noise):
    """The token's gradient comes by way of fresh states, whose graph no part may take from the next."""
    weights = []
    for parts in (1, 2, 3):
        model = make_model("L2x_H2x-prepend-keep", h_cycles=1, l_cycles=1)
        learner = make_learner(model, accumulation_steps=parts, state_noise=noise, slots_out_of_step=True)
        for step in range(3):
            learner.train_step(stream.batch(step))
        weights.append(learner.model.state_dict())
    token = "model.level_token_l"
    assert not torch.equal(weights[0][token], make_model("L2x_H2x-prepend-keep").state_dict()[token])
    for other in weights[1:]:
        for name, expected in weights[0].items():
            torch.testing.assert_close(other[name], expected, rtol=1e-4, atol=1e-6)


def test_a_model_without_a_named_puzzle_is_saved_without_a_tokenizer(make_model, stream, tmp_path):
    learner = make_learner(make_model(puzzle=None))
    save_checkpoint(learner, tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint" / "tokenizer.json").exists()
    assert load_model(tmp_path / "checkpoint").config.puzzle is None
    assert training_facts(tmp_path) == {}


def test_weights_that_small_steps_do_not_change_are_not_trained(make_model):
    message = "embed_tokens.weight is of torch.bfloat16, .* load the model with dtype=torch.float32"
    with pytest.raises(ValueError, match=message):
        make_learner(make_model().to(torch.bfloat16))


def test_batches_of_another_size_are_refused(make_model, stream):
    learner, batch = make_learner(make_model(), accumulation_steps=2), stream.batch(0)
    slots = len(batch["input_ids"])
    with pytest.raises(ValueError, match="a batch of 3 puzzles was given; expected a multiple of accumulation_steps"):
        learner.train_step({name: tensor[:3] for name, tensor in batch.items()})
    assert learner.carry is None
    learner.train_step(batch)
    for some in (2, 4):  # of one puzzle, too, every slot would take a copy
        with pytest.raises(ValueError, match=f"a batch of {some} puzzles was given to {slots} slots"):
            learner.train_step({name: tensor[:some] for name, tensor in batch.items()})
    assert learner.step == 1


def test_what_the_step_does_not_honour_is_refused(make_model):
    recipe = Recipe(compile="off")
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="has gradient_accumulation_steps 2; say accumulation_steps"):
        Learner(make_model(), recipe, accelerator)
    AcceleratorState._reset_state()  # the compiler is chosen once per process otherwise
    accelerator = Accelerator(cpu=True, dynamo_backend="eager")  # it would rename the weights
    with pytest.raises(ValueError, match="has the dynamo_backend EAGER; say compile instead"):
        Learner(make_model(), recipe, accelerator)
    AcceleratorState._reset_state()
    accelerator = SimpleNamespace(mixed_precision="fp16", gradient_accumulation_steps=1)
    with pytest.raises(ValueError, match="mixed_precision is 'fp16'; expected 'no' or 'bf16'"):
        Learner(make_model(), recipe, accelerator)


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx2": True, "avx512_bf16": False}, "no")],
)
def test_precision_is_chosen_by_the_units_of_the_cpu(monkeypatch, units, expected):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: units)
    assert precision_for("auto", "cpu") == expected
    assert [precision_for(given, "cpu") for given in ("no", "bf16", None)] == ["no", "bf16", None]


@pytest.mark.parametrize(
    ("device", "found", "expected"),
    [
        ("cpu", {"g++"}, True),
        ("cpu", {"gcc"}, False),
        ("cuda", {"gcc", "triton"}, True),
        ("cuda", {"clang", "triton"}, True),
        ("cuda", {"triton"}, False),
        ("cuda", {"gcc"}, False),
        ("mps", {"gcc", "g++", "triton"}, False),
    ],
)
def test_compiled_where_the_compiler_finds_what_it_needs(monkeypatch, device, found, expected):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("air_hf.training.backend.shutil.which", lambda name: name if name in found else None)
    monkeypatch.setattr("air_hf.training.backend.find_spec", lambda name: name if name in found else None)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    assert should_compile("auto", torch.device(device)) is expected
    assert [should_compile(choice, torch.device(device)) for choice in ("on", "off")] == [True, False]
    if device == "cuda":
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (6, 1))
        assert not should_compile("auto", torch.device(device))


def test_threads_of_a_process(monkeypatch):
    """Its share of the cores that it may run on, among the processes of this machine."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)))
    for name in ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (cores_of_a_process(1), cores_of_a_process(3), cores_of_a_process(99)) == (12, 4, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of 16 on eight machines
    assert cores_of_a_process(16) == 6


def test_options_of_a_family_of_another_package():
    recipe = RunRecipe(puzzle="toy-3x4", symbols="ab", family_options="rule=strict,bonus=")
    assert recipe.puzzle_options == {"symbols": "ab", "rule": "strict", "bonus": ""}
    with pytest.raises(ValueError, match="family_options is 'strict'; expected NAME=VALUE"):
        RunRecipe(family_options="strict")


@pytest.mark.parametrize(
    ("fields", "graphs"),
    [
        ({"h_cycles": 1, "l_cycles": 1, "halting": "halt_only"}, 1),
        ({}, 2),  # updates with a graph for gradients, and those without
    ],
)
def test_compiles_once(make_model, stream, monkeypatch, fields, graphs):
    """Compiled training makes one graph a network and gradient mode at its first steps, and none after."""
    quick = partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", quick)
    torch._dynamo.reset()
    counters.clear()
    learner = make_learner(make_model(**fields), compile="on", ema_decay=0.9)
    for step in range(6):
        learner.train_step(stream.batch(step))
        assert counters["stats"]["unique_graphs"] == graphs


class OverwritingGraphs:
    """Stands for CUDA graphs: what a step's graphs and gradients gave is NaN as soon as the next step's graphs run."""

    def __init__(self):
        self.steps, self.calls, self.overwritten = 0, 0, 0
        self._given: list[tuple[int, torch.Tensor]] = []

    def mark_step(self) -> None:
        self.steps += 1

    def backend(self, graph, example_inputs, **kwargs):
        def run(*args):
            self.calls += 1
            for _, values in (given for given in self._given if given[0] < self.steps):
                values.fill_(torch.nan)
                self.overwritten += 1
            self._given = [given for given in self._given if given[0] == self.steps]
            outputs = graph(*args)
            for values in outputs:
                self.give(values)
            return outputs

        return run

    def give(self, values: torch.Tensor) -> None:
        self._given.append((self.steps, values.detach()))

    def give_gradient(self, weight: torch.Tensor) -> None:
        self.give(weight.grad)


@pytest.mark.parametrize(
    ("fields", "recipe"),
    [
        ({}, {}),
        ({"halting": "halt_only"}, {"optimizer": "muon", "accumulation_steps": 2, "state_noise": 0.1}),
    ],
)
def test_what_cuda_graphs_write_over_is_not_read(make_model, stream, monkeypatch, fields, recipe):
    """Every step may reuse the memory of the one before: states, gradients and averages live elsewhere by then."""
    results = []
    for mode in ("on", "reduce-overhead"):
        graphs = OverwritingGraphs()
        torch._dynamo.reset()
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=graphs.backend))
            patch.setattr(torch.compiler, "cudagraph_mark_step_begin", graphs.mark_step)
            learner = make_learner(make_model(**fields), compile=mode, ema_decay=0.9, **recipe)
            for weight in learner.model.parameters():
                weight.register_post_accumulate_grad_hook(graphs.give_gradient)
            scores = []
            for step in range(4):
                batch = stream.batch(step)
                learner.train_step(batch)
                calls = graphs.calls
                with torch.no_grad(), learner.evaluating() as model:
                    scores += [output.logits for output in model.unroll(batch["input_ids"])]
                assert (graphs.calls == calls) == (mode != "on")  # no graph has run in the evaluation
        assert graphs.steps == (0 if mode == "on" else 4)
        results.append([*scores, *learner.model.state_dict().values(), *learner.ema.averages.values()])
    assert graphs.overwritten > 3 * len(learner.ema.averages)
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)
