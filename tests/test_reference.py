"""Parity with the published AIR, HRM and TRM codes, on the numbers recorded from them (float32, CPU).

AIR_REFERENCE_DIR points the same tests at another folder of such files.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from air_hf import variant_config
from air_hf.reference import load_reference, rename_weights
from air_hf.training import Learner, Recipe
from air_hf.training.carry import has_halted
from air_hf.training.learner import step_metrics
from air_hf.variants import REFERENCE_NAMES, VARIANTS

FOLDER = Path(os.environ.get("AIR_REFERENCE_DIR", Path(__file__).parent / "fixtures" / "reference"))
FILES = sorted(path for path in FOLDER.glob("*.safetensors") if not path.name.startswith("analysis"))
# The first segment and the first step agree to 5e-5 in every file, however chaotic the later ones (its README).
FIRST = 5e-5


class Reference:
    """One recorded file."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        self.variant = facts["variant"]
        self.config = json.loads(facts["config"])
        self.train = json.loads(facts["train"])
        self.spread = json.loads(facts["float32_spread"])

    def tolerance(self, group: str) -> float:
        return max(10 * self.spread[group], 1e-5)

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def model(self):
        return load_reference(self.group("init."), self.config, self.variant)

    def batch(self, prefix: str) -> dict[str, torch.Tensor]:
        batch = self.group(f"{prefix}.batch.")
        return {
            "input_ids": batch["inputs"].long(),
            "labels": batch["labels"].long(),
            "puzzle_ids": batch["puzzle_identifiers"].long(),
        }


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def reference(request) -> Reference:
    return Reference(request.param)


def relative_error(expected: torch.Tensor, ours: torch.Tensor) -> float:
    """‖expected − ours‖ / ‖expected‖, absolute where the expected norm is 0."""
    expected, ours = expected.double().flatten(), ours.detach().double().flatten()
    norm = expected.norm().item()
    return (expected - ours).norm().item() / (norm or 1.0)


def test_every_variant_is_recorded():
    assert len(FILES) > 0
    if "AIR_REFERENCE_DIR" not in os.environ:
        recorded = {REFERENCE_NAMES.get(path.stem, path.stem) for path in FILES}
        assert recorded == set(VARIANTS)


@torch.no_grad()
def test_segments(reference):
    model, batch, state = reference.model(), reference.batch("eval"), None
    for segment in range(model.config.max_segments):
        output = model(**batch, state=state)
        state = output.state
        expected = reference.group(f"eval.{segment}.")
        ours = {
            "logits": output.logits,
            "q_halt_logits": output.q_halt_logits,
            "q_continue_logits": output.q_continue_logits,
            "z_H": state.z_h,
            "z_L": state.z_l,
            "loss": output.loss * len(batch["labels"]),
        }
        assert expected.keys() <= ours.keys()
        errors = {name: relative_error(expected[name], ours[name]) for name in expected}
        limit = reference.tolerance("eval")
        assert max(errors.values()) <= (min(limit, FIRST) if segment == 0 else limit), (segment, errors)


def test_gradients(reference):
    model, batch = reference.model().train(), reference.batch("grad")
    output = model(**batch)
    output.loss.backward()
    slots, limit = len(batch["labels"]), min(reference.tolerance("grad"), FIRST)
    assert relative_error(reference.tensors["grad.loss"], output.loss * slots) <= limit

    halted = has_halted(model, output, torch.zeros(slots, dtype=torch.long))
    assert halted.int().tolist() == reference.tensors["grad.halted"].tolist()
    metrics = step_metrics(output, batch["labels"], halted)
    expected_metrics = reference.group("grad.metrics.")
    assert expected_metrics.keys() <= metrics.keys()
    for name, expected in expected_metrics.items():
        assert relative_error(expected, metrics[name]) <= limit, name

    recorded = reference.group("grad.param.")
    row_gradients = recorded.pop("inner.puzzle_emb.local_weights", None)
    expected = rename_weights(recorded)
    if row_gradients is not None:  # recorded for each row of the batch; ours is of the table
        table = torch.zeros_like(model.model.prefix.weight)
        expected["model.prefix.weight"] = table.index_add(0, batch["puzzle_ids"], row_gradients)
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert ours.keys() == expected.keys()
    errors = {name: relative_error(expected[name], ours[name]) for name in expected}
    assert max(errors.values()) <= limit, errors


def test_six_training_steps(reference):
    recipe, model = reference.train, reference.model()
    recipe = Recipe(
        batch_size=reference.config["batch_size"],
        max_steps=recipe["total"],
        warmup_steps=recipe["warmup"],
        min_lr_ratio=recipe["lr_min_ratio"],
        learning_rate=recipe["lr"],
        weight_decay=recipe["weight_decay"],
        prefix_learning_rate=recipe["puzzle_emb_lr"],
        prefix_weight_decay=recipe["puzzle_emb_weight_decay"],
        adam_beta1=recipe["betas"][0],
        adam_beta2=recipe["betas"][1],
        halt_exploration_prob=0.0,
        ema_decay=0.0,
        compile="off",
    )
    learner = Learner(model, recipe, Accelerator(cpu=True, mixed_precision="no"))
    for step in range(1, 7):
        expected = reference.group(f"train.{step}.")
        metrics = learner.train_step(reference.batch(f"train.{step}"))
        loss = metrics["lm_loss"] + 0.5 * (metrics["q_halt_loss"] + metrics["q_continue_loss"])
        limit = reference.tolerance("train")
        assert relative_error(expected["loss"], loss) <= (min(limit, FIRST) if step == 1 else limit), step
        assert learner.carry.halted.int().tolist() == expected["halted"].tolist(), step
        assert learner.carry.state.num_segments.tolist() == expected["steps"].tolist(), step
    expected = rename_weights(reference.group("final."))
    ours = learner.model.state_dict()
    assert ours.keys() == expected.keys()
    errors = {name: relative_error(expected[name], ours[name]) for name in expected}
    assert max(errors.values()) <= reference.tolerance("final"), errors


def test_rejects_what_does_not_fit():
    reference = Reference(FILES[0])
    weights = reference.group("init.")
    with pytest.raises(ValueError, match=r"unknown variant 'Lx_G'.*Lx_H"):
        load_reference(weights, reference.config, "Lx_G")
    with pytest.raises(ValueError, match=r"unknown reference config names \['width'\]"):
        load_reference(weights, reference.config | {"width": 3}, reference.variant)
    with pytest.raises(ValueError, match=r"'mystery' is not one of"):
        load_reference(weights | {"inner.mystery": torch.zeros(1)}, reference.config, reference.variant)
    with pytest.raises(ValueError, match=r"the weights have \d layers; the config says {'H_layers': 7, 'L_layers': 8}"):
        load_reference(weights, reference.config | {"H_layers": 7, "L_layers": 8}, reference.variant)
    incomplete = {name: value for name, value in reference.config.items() if name != "hidden_size"}
    with pytest.raises(ValueError, match=r"names \['hidden_size'\] are missing"):
        load_reference(weights, incomplete, reference.variant)
    wider = reference.config | {"vocab_size": reference.config["vocab_size"] + 1}
    with pytest.raises(ValueError, match=r"of another shape: lm_head\.weight \(\d+, \d+\), not \(\d+"):
        load_reference(weights, wider, reference.variant)


def test_accepts_prefixed_names():
    """The published loss head and torch.compile leave prefixes before the names."""
    reference = Reference(FILES[0])
    prefixed = {f"_orig_mod.model.{name}": tensor for name, tensor in reference.group("init.").items()}
    model = load_reference(prefixed, reference.config, reference.variant)
    for name, tensor in reference.model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert (
        model.config.to_dict()
        == variant_config(
            reference.variant, **{name: getattr(model.config, name) for name in type(model.config).__annotations__}
        ).to_dict()
    )
