"""The rollout: one loop over segments, questions encoded once; slots and states may be changed in between."""

import pytest
import torch

from air_hf.modeling import AIRInputs, AIRRollout, AIRState, AIRUpdate
from air_hf.variants import VARIANTS, variant_config

ALL = pytest.mark.parametrize("variant", VARIANTS)


def questions(model, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, model.config.vocab_size, (count, model.config.seq_len), generator=generator)


@ALL
@torch.no_grad()
def test_unroll_is_segment_after_segment(make_model, variant, monkeypatch):
    """It computes what `forward` does call by call, and encodes once."""
    model = make_model(variant)
    ids, state, calls, encode = questions(model), None, [], model.model.encode
    monkeypatch.setattr(model.model, "encode", lambda *args: calls.append(1) or encode(*args))
    unrolled = list(model.unroll(ids))
    assert (len(unrolled), len(calls)) == (model.config.max_segments, 1)
    for output in unrolled:
        expected = model(ids, state=state)
        state = expected.state
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.q_halt_logits, expected.q_halt_logits)
        assert torch.equal(output.state.z_l, state.z_l)
        assert torch.equal(output.state.num_segments, state.num_segments)


@torch.no_grad()
def test_unroll_goes_on_from_a_state(make_model):
    model = make_model()
    ids = questions(model)
    first, second = list(model.unroll(ids, max_segments=3)), model.unroll(ids, max_segments=2)
    outputs = [*second, *model.unroll(ids, state=second.state, max_segments=1)]
    assert torch.equal(outputs[-1].logits, first[-1].logits)
    assert outputs[-1].state.num_segments.tolist() == [3, 3, 3]


@torch.no_grad()
def test_slots_leave_and_join_between_segments(make_model):
    model = make_model().double()
    ids = questions(model, count=4)
    expected = [output.logits for output in model.unroll(ids, max_segments=3)]
    rollout = model.unroll(ids[:3], max_segments=3)
    next(rollout)
    fresh = AIRRollout(model, model.model.encode(ids[3:]), model.initial_state(1))
    rollout.inputs = AIRInputs.cat([rollout.inputs[1:], fresh.inputs])  # puzzle 0 leaves, puzzle 3 comes
    rollout.state = AIRState.cat([rollout.state[1:], fresh.state])
    output = next(rollout)
    assert output.state.num_segments.tolist() == [2, 2, 1]
    torch.testing.assert_close(output.logits[:2], expected[1][1:3])
    torch.testing.assert_close(output.logits[2], expected[0][3])


@torch.no_grad()
def test_without_a_limit_a_rollout_does_not_end(make_model):
    model = make_model(max_segments=2)
    ids = questions(model)
    rollout = AIRRollout(model, model.model.encode(ids), model.initial_state(3))
    assert [next(rollout).state.num_segments[0].item() for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("variant", ["Lx_H", "hrm", "trm-mlp", "L2x_H2x-prepend-keep"])
@pytest.mark.parametrize("level", ["L", "H"])
@torch.no_grad()
def test_a_frozen_state_stays(make_model, variant, level):
    model = make_model(variant)
    ids = questions(model)
    rollout, start = model.unroll(ids), model.initial_state(3)
    rollout.frozen = {level}
    output = list(rollout)[-1]
    held, other = ("z_l", "z_h") if level == "L" else ("z_h", "z_l")
    assert torch.equal(getattr(output.state, held), getattr(start, held))
    assert not torch.equal(getattr(output.state, other), getattr(start, other))


@ALL
@torch.no_grad()
def test_an_observer_sees_the_schedule(make_model, variant):
    model = make_model(variant, max_segments=2)
    seen, rollout = [], model.unroll(questions(model))
    rollout.observer = lambda update, state: seen.append((update, state))
    outputs = list(rollout)
    assert [update for update, _ in seen] == 2 * list(model.config.schedule)
    length = len(model.config.schedule)
    for segment, output in enumerate(outputs):
        states = [state for _, state in seen[segment * length : (segment + 1) * length]]
        assert torch.equal(states[-1].z_h, output.state.z_h)
        before = outputs[segment - 1].state if segment else model.initial_state(3)
        for (update, state), previous in zip(seen[segment * length :], [before, *states], strict=False):
            stays = "z_h" if update.level == "L" else "z_l"
            assert torch.equal(getattr(state, stays), getattr(previous, stays))


def test_schedule_by_hand():
    last_step = variant_config("Lx_H", h_cycles=2, l_cycles=2).schedule
    assert last_step == (
        AIRUpdate("L", 0, False), AIRUpdate("L", 1, False), AIRUpdate("H", 0, False),
        AIRUpdate("L", 2, False), AIRUpdate("L", 3, True), AIRUpdate("H", 1, True),
    )  # fmt: skip
    last_cycle = variant_config("Lx_H", h_cycles=2, l_cycles=2, gradient="last_cycle").schedule
    assert [update.keeps_graph for update in last_cycle] == [False, False, False, True, True, True]
    assert len(variant_config("trm-mlp").schedule) == 3 * (6 + 1)


def test_an_empty_batch_has_an_empty_answer(make_model):
    for variant in ("Lx_H", "trm-mlp", "L2x_H2x-prepend-keep"):
        model = make_model(variant)
        ids = torch.zeros(0, 16, dtype=torch.long)
        answer = model.solve(ids, early_stop=True)
        assert answer.sequences.shape == (0, 16)
        assert answer.q_halt_logits.shape == answer.num_segments.shape == (0,)
        assert model(ids, labels=ids).loss == 0


def state_with(model, **tensors):
    return AIRState(**(vars(model.initial_state(3)) | tensors))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda m, ids: {"labels": ids[:, :1]}, r"labels has shape \(3, 1\); expected \(3, 16\)"),
        (lambda m, ids: {"labels": ids + 5}, "labels holds the symbol 6; this model knows 0 to 5 and -100"),
        (lambda m, ids: {"labels": ids * 0 - 1}, "labels holds the symbol -1"),
        (lambda m, ids: {"labels": ids.float()}, "labels is of torch.float32; expected torch.int64"),
        (lambda m, ids: {"puzzle_ids": ids[:, 0] * 0 + 1}, "puzzle_ids holds the id 1; this model knows 0 to 0"),
        (lambda m, ids: {"puzzle_ids": ids[:1, 0]}, r"puzzle_ids has shape \(1,\); expected \(3,\)"),
        (lambda m, ids: {"puzzle_ids": ids[:, 0] * 0.0}, "puzzle_ids is of torch.float32"),
        (lambda m, ids: {"input_ids": ids.to(torch.uint8)}, "input_ids is of torch.uint8; expected torch.int64"),
        (lambda m, ids: {"input_ids": ids * 1.0}, "input_ids is of torch.float32; expected torch.int64"),
        (lambda m, ids: {"input_ids": ids[0]}, r"input_ids has shape \(16,\)"),
        (lambda m, ids: {"state": state_with(m, z_l=m.initial_state(1).z_l)}, r"state's z_l has shape \(1, 17, 32\)"),
        (lambda m, ids: {"state": state_with(m, num_segments=torch.zeros(2))}, r"state's num_segments has shape \(2,"),
    ],
)
def test_what_a_call_refuses(make_model, arguments, message):
    model = make_model()
    ids = questions(model).clamp(max=1)
    with pytest.raises(ValueError, match=message):
        model(**({"input_ids": ids} | arguments(model, ids)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"early_stop": True, "early_exit": "never"},
            "early_stop is early_exit='trained'; early_exit='never' is given",
        ),
        ({"early_stop": "no"}, "early_stop is 'no'; expected True or False"),
        ({"q_halt_threshold": float("nan"), "early_stop": True}, "q_halt_threshold is nan; expected a number"),
        ({"max_segments": True}, "max_segments is True; expected a whole number"),
        ({"max_segments": 2.0}, "max_segments is 2.0; expected a whole number"),
        ({"max_segments": -1}, "max_segments is -1; it must be at least 1 and at most 65536"),
        ({"max_segments": 10**30}, "max_segments is 10{30}; it must be"),
    ],
)
def test_what_solve_refuses(make_model, options, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.solve(questions(model), **options)
