"""The optimisers as one object: groups, rates, clipping, and state that goes on exactly."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training import rewrite_manifest, small_learner, small_stream

from air_hf.data import PuzzleStream
from air_hf.hub import CheckpointError
from air_hf.runs import load_checkpoint, save_checkpoint
from air_hf.runs.checkpoint import TENSORS
from air_hf.training import Recipe
from air_hf.training.optimizers import OPTIMIZERS, GroupedOptimizer, weight_groups

BATCH = 8


@pytest.fixture(scope="module")
def stream() -> PuzzleStream:
    return small_stream(BATCH)


make_learner = partial(small_learner, batch_size=BATCH, warmup_steps=1)


@pytest.mark.parametrize("variant", ["Lx_H-tanh", "hrm", "L2x_H2x-add", "trm-mlp"])
def test_groups_are_all_weights_once(make_model, variant):
    model = make_model(variant)
    groups = weight_groups(model)
    assert sum(len(group) for group in groups.values()) == len(list(model.parameters()))
    assert list(groups["prefix"]) == ["model.prefix.weight"]
    assert {"lm_head.weight", "q_head.weight", "q_head.bias", "model.embed_tokens.weight"} <= groups["others"].keys()
    assert all(name.endswith("proj.weight") for name in groups["matrices"])


def test_muon_has_the_matrices_and_adamw_the_rest(make_model):
    """Beside the library's own optimisers over the same weights and gradients."""
    fields = {"optimizer": "muon", "learning_rate": 1e-2, "muon_learning_rate": 3e-2, "weight_decay": 0.2,
              "decay": "matrices"}  # fmt: skip
    model, twin = make_model(), make_model()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        ours.grad = torch.randn(ours.shape, generator=torch.Generator().manual_seed(ours.numel()))
        theirs.grad = ours.grad.clone()
    GroupedOptimizer(model, Recipe(**fields)).step(0.5, torch.tensor([0]))
    matrices, others, prefix = (list(group.values()) for group in weight_groups(twin).values())
    torch.optim.Muon(matrices, lr=1.5e-2, momentum=0.6, weight_decay=0.2, adjust_lr_fn="match_rms_adamw").step()
    torch.optim.AdamW(others, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0).step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        if theirs is not prefix[0]:
            assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(("decay", "kept"), [("all", 0.99), ("matrices", 1.0)])
def test_what_decays(make_model, decay, kept):
    """By hand: with a gradient of zero a weight is multiplied by 1 - rate · decay."""
    model = make_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    recipe = Recipe(optimizer="adamw", learning_rate=0.1, weight_decay=0.1, decay=decay)
    GroupedOptimizer(model, recipe).step(1.0, torch.tensor([0]))
    torch.testing.assert_close(model.lm_head.weight.data, kept * before["lm_head.weight"])
    name = "model.networks.shared.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(model.get_parameter(name).data, 0.99 * before[name])


def test_clipping(make_model, stream):
    """A clipped step is the step of gradients divided by their norm; where the norm is smaller, nothing changes."""
    plain, clipped, loose = (make_model() for _ in range(3))
    for model in (plain, clipped, loose):
        model.train()(**stream.batch(0)).loss.backward()
    groups = weight_groups(plain)
    parameters = [*groups["matrices"].values(), *groups["others"].values()]
    norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
    for parameter in parameters:
        parameter.grad *= 1e-3 / (norm + 1e-6)
    for model, bound in ((plain, 0.0), (clipped, 1e-3), (loose, 1e9)):
        GroupedOptimizer(model, Recipe(optimizer="adamw", max_grad_norm=bound)).step(1.0, torch.tensor([0]))
    torch.testing.assert_close(clipped.lm_head.weight, plain.lm_head.weight)
    assert not torch.equal(loose.lm_head.weight, clipped.lm_head.weight)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_the_uninterrupted_one(make_model, stream, tmp_path, optimizer):
    fields = {"optimizer": optimizer, "max_grad_norm": 0.5, "slots_out_of_step": True, "decay": "matrices"}
    whole = make_learner(make_model(), **fields)
    for step in range(7):
        whole.train_step(stream.batch(step))
        if step == 3:
            save_checkpoint(whole, tmp_path / "checkpoint")
    second = make_learner(make_model(seed=1), **fields)
    load_checkpoint(second, tmp_path / "checkpoint")
    assert second.step == 4
    for step in range(4, 7):
        second.train_step(stream.batch(step))
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], expected), name
    ours, theirs = whole.optimizer.state(), second.optimizer.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in ours)
    assert torch.equal(second.carry.state.num_segments, whole.carry.state.num_segments)


def test_the_state_of_another_optimiser_is_refused(make_model, stream, tmp_path):
    learner = make_learner(make_model(), optimizer="adamw")
    learner.train_step(stream.batch(0))
    save_checkpoint(learner, tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="was trained with optimizer='adamw'; this run has 'muon'"):
        load_checkpoint(make_learner(make_model(), optimizer="muon"), tmp_path / "checkpoint")
    state = learner.optimizer.state()
    with pytest.raises(ValueError, match=r"AdamW\..* is no state of AdamAtan2, PrefixSignSGD"):
        make_learner(make_model()).optimizer.load_state(state)
    name = "AdamW.lm_head.weight.exp_avg"
    with pytest.raises(ValueError, match=rf"{name} has shape \(2,\); expected \(6, 32\)"):
        learner.optimizer.load_state(state | {name: torch.zeros(2)})
    with pytest.raises(ValueError, match="of some weights"):
        learner.optimizer.load_state({key: value for key, value in state.items() if key != name})


def test_a_lost_tensor_is_noticed(make_model, stream, tmp_path):
    """Also where whoever took it away rewrote the manifest."""
    learner = make_learner(make_model(), optimizer="muon")
    learner.train_step(stream.batch(0))
    save_checkpoint(learner, tmp_path / "checkpoint")
    tensors = load_file(tmp_path / "checkpoint" / TENSORS)
    lost = next(name for name in tensors if name.endswith("momentum_buffer"))
    del tensors[lost]
    save_file(tensors, tmp_path / "checkpoint" / TENSORS)
    rewrite_manifest(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"state\.safetensors holds other tensors than .*state\.json says"):
        load_checkpoint(make_learner(make_model(), optimizer="muon"), tmp_path / "checkpoint")


def test_slots_out_of_step(make_model, stream):
    """Their first puzzles end after other numbers of segments; without it, all at once."""
    counts = {}
    for apart in (False, True):
        learner = make_learner(make_model(), slots_out_of_step=apart, halt_exploration_prob=0.0)
        learner.model.q_head.weight.data.zero_()  # nobody wishes to halt
        learner.model.q_head.bias.data.copy_(torch.tensor([-9.0, 9.0]))
        metrics = learner.train_step(stream.batch(0))
        assert metrics["slots"] == BATCH
        counts[apart] = learner.carry.state.num_segments
    assert counts[False].tolist() == [1] * BATCH
    assert counts[True].min() >= 1
    assert counts[True].max() <= 4
    assert len(counts[True].unique()) > 2
    expected = np.random.default_rng([0, 3, 0]).integers(4, size=BATCH) + 1
    assert counts[True].tolist() == expected.tolist()


def test_slots_that_wish_to_halt_stay_for_a_while(make_model, stream):
    """All of them, where the delay is certain, and none without one; at the last segment nobody stays."""
    for delay, halts in ((0.0, [True] * 4), (1.0, [False, False, False, True])):
        learner = make_learner(make_model(), halt_exploration_prob=0.0, halt_delay_prob=delay, learning_rate=1e-6)
        learner.model.q_head.weight.data.zero_()  # everybody wishes to halt
        learner.model.q_head.bias.data.copy_(torch.tensor([9.0, -9.0]))
        seen = []
        for step in range(4):
            learner.train_step(stream.batch(step))
            assert len(learner.carry.halted.unique()) == 1
            seen.append(learner.carry.halted[0].item())
        assert seen == halts


def test_noise_on_the_states(make_model, stream):
    """What the model is given: states with independent noise of the size asked for, other noise at every step, the same
    for the same seed; without it the states as they were."""

    def seen_states(steps: int, **fields) -> list[tuple[torch.Tensor, torch.Tensor]]:
        learner, seen = make_learner(make_model(), halt_exploration_prob=0.0, **fields), []

        def look(module, args, kwargs):
            before = learner.carry.state if learner.carry else learner.model.initial_state(BATCH)
            seen.append((kwargs["state"].z_h - before.z_h, kwargs["state"].z_l - before.z_l))

        learner.model.q_head.weight.data.zero_()  # nobody wishes to halt
        learner.model.q_head.bias.data.copy_(torch.tensor([-9.0, 9.0]))
        learner.model.register_forward_pre_hook(look, with_kwargs=True)
        for step in range(steps):
            learner.train_step(stream.batch(step))
        return seen

    for z_h, z_l in seen_states(2, state_noise=0.0):
        assert not z_h.any()
        assert not z_l.any()
    first, second = seen_states(2, state_noise=0.25, seed=3)
    for noise in (*first, *second):
        assert noise.std().item() == pytest.approx(0.25, rel=0.05)
        assert abs(noise.mean().item()) < 0.02
        assert len(noise.flatten(1).unique(dim=0)) == BATCH
    pairs = ((first[0], first[1]), (first[0], second[0]), (first[1], second[1]))
    for one, other in pairs:
        assert abs(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1].item()) < 0.1
    again, other_seed = seen_states(1, state_noise=0.25, seed=3)[0], seen_states(1, state_noise=0.25, seed=4)[0]
    assert torch.equal(again[0], first[0])
    assert not torch.equal(other_seed[0], first[0])
