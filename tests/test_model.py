"""The model beyond parity: gradients by definition, precision, batching, solving, FLOPs, bad input."""

import copy
import dataclasses
import math

import accelerate
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, Trainer, TrainingArguments

from air_hf import AIRForPuzzleSolving
from air_hf.modeling import AIRState
from air_hf.modeling.modeling_air import rms_norm
from air_hf.variants import CONFIG_FIELDS, VARIANTS

ALL = pytest.mark.parametrize("variant", VARIANTS)


def questions(model, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, model.config.vocab_size, (count, model.config.seq_len), generator=generator)


def test_initialisation(make_model):
    """Standard deviations of DESIGN: 1/√fan_in, 1/√D, 1 for the states' start; halting starts at 0·z − 5."""
    torch.manual_seed(0)
    # Wide, so that the estimates are good enough to tell a corrected standard deviation from 0.88 of it.
    model = AIRForPuzzleSolving(make_model(hidden_size=1024, num_attention_heads=4).config)
    layer = model.model.networks["shared"].layers[0]
    weights = {
        layer.mixer.attention.qkv_proj.weight: 1024**-0.5,
        layer.mlp.down_proj.weight: model.config.intermediate_size**-0.5,
        model.model.z_h_init: 1.0,
        model.model.z_l_init: 1.0,
    }
    for weight, std in weights.items():
        assert weight.std().item() == pytest.approx(std, rel=0.06)
        assert weight.abs().max() <= 2 * std / 0.8796 * 1.001
    assert model.q_head.weight.abs().max() == 0
    assert (model.q_head.bias == -5).all()
    assert model.model.prefix.weight.abs().max() == 0
    assert not torch.equal(model.model.z_h_init, model.model.z_l_init)


@ALL
def test_one_segment_is_its_updates(make_model, variant):
    """forward() is the public steps, composed by hand."""
    model = make_model(variant)
    inner, config, ids = model.model, model.config, questions(model)
    with torch.no_grad():
        inputs, state = inner.encode(ids), inner.initial_state(3)
        z_h, z_l = state.z_h, state.z_l
        for _ in range(config.h_cycles):
            for _ in range(config.l_cycles):
                z_l = inner.l_update(z_l, z_h, inputs)
            z_h = inner.h_update(z_h, z_l, inputs)
        output = model(ids)
    assert torch.equal(output.state.z_h, z_h)
    assert torch.equal(output.state.z_l, z_l)
    assert torch.equal(output.logits, model.decode(z_h))
    assert output.logits.shape == (3, 16, 6)
    assert output.state.num_segments.tolist() == [1, 1, 1]
    assert not output.state.z_h.requires_grad


@pytest.mark.parametrize("gradient", ["last_step", "last_cycle"])
def test_gradient_modes(make_model, gradient):
    """The gradient is that of the named updates with everything before them held constant."""
    model = make_model(gradient=gradient, l_cycles=3).train()
    ids, inner, config = questions(model), model.model, model.config
    model(ids).logits.square().sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()

    inputs, state = inner.encode(ids), inner.initial_state(3)
    updates = [kind for _ in range(config.h_cycles) for kind in "lll" + "h"]
    kept = 2 if gradient == "last_step" else 4
    z_h, z_l = state.z_h, state.z_l
    for index, kind in enumerate(updates):
        if kind == "l":
            z_l = inner.l_update(z_l, z_h, inputs)
        else:
            z_h = inner.h_update(z_h, z_l, inputs)
        if index < len(updates) - kept:
            z_h, z_l = z_h.detach(), z_l.detach()
    model.decode(z_h).square().sum().backward()
    for name, expected in ours.items():
        torch.testing.assert_close(model.get_parameter(name).grad, expected, rtol=1e-4, atol=1e-6)
    assert len(ours) >= 6


@pytest.mark.parametrize("variant", ["Lx_H", "hrm", "trm-att", "trm-mlp", "Lx_H-linear", "L2x_H2x-prepend-strip",
                                     "L2x_H2x-prepend-keep"])  # fmt: skip
@pytest.mark.parametrize("max_segments", [1, 4])
def test_flops_against_the_counter(make_model, variant, max_segments):
    model = make_model(variant, max_segments=max_segments).train()
    model.set_attn_implementation("eager")  # the counter does not see CPU's SDPA
    ids = questions(model)
    labels = ids.clone()
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(ids)
    assert forward.get_total_flops() == model.config.estimate_flops(3)
    with FlopCounterMode(display=False) as training:
        model(ids, labels=labels).loss.backward()
    assert training.get_total_flops() == model.config.estimate_flops(3, with_gradient=True)


@ALL
def test_attention_backends_agree(make_model, variant):
    model, eager = make_model(variant), make_model(variant)
    eager.set_attn_implementation("eager")
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model(questions(model)).logits, eager(questions(model)).logits, rtol=1e-3, atol=1e-4)


def test_a_compiled_network_is_given_its_angles(make_model):
    model, computed = make_model(), set()
    model.set_attn_implementation("eager")
    expected = model(questions(model)).logits

    def look_at(graph, inputs):
        computed.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    model.model.networks["shared"].compile(backend=look_at, dynamic=False)
    torch.testing.assert_close(model(questions(model)).logits, expected)
    assert "softmax" in computed
    assert not computed & {"cos", "sin", "pow"}


def test_a_model_that_has_solved_in_inference_mode_can_be_trained(make_model):
    model = make_model()
    with torch.inference_mode():
        model(questions(model))
    model.train()(questions(model), labels=questions(model)).loss.backward()


@pytest.mark.parametrize("dim", [-1, 0])
def test_norm_and_its_derivatives(dim):
    def norm(values):
        return rms_norm(values, 1e-5, dim)

    def by_definition(values):
        return values / (values.square().sum(dim, keepdim=True) / values.shape[dim] + 1e-5).sqrt()

    values = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(norm(values), by_definition(values))
    assert torch.autograd.gradcheck(norm, values, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(norm, values)
    jacobian = torch.autograd.functional.jacobian(by_definition, values)
    for jacobian_of in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(jacobian_of(norm)(values), jacobian)
    compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.functional.jacobian(compiled, values), jacobian)


def test_norm_in_bfloat16_has_the_gradient_of_float32_but_for_rounding():
    values, grad = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = values.detach().to(dtype).requires_grad_()
        rms_norm(leaf, 1e-5).backward(grad.to(dtype))
        gradients.append(leaf.grad.float())
    torch.testing.assert_close(gradients[1], gradients[0], atol=0.03, rtol=0.01)


@pytest.mark.parametrize("variant", ["Lx_H", "trm-mlp", "L2x_H2x-prepend-keep"])
def test_bfloat16_forward_over_float32_weights(make_model, variant):
    """Autocast keeps the states in bfloat16, reaches every parameter that float32 does, and stays near it."""
    gradients = []
    for enabled in (False, True):
        model = make_model(variant).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = model(questions(model), labels=questions(model, seed=2))
        assert output.state.z_h.dtype == (torch.bfloat16 if enabled else torch.float32)
        output.loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    exact, rough = gradients
    assert exact.keys() == rough.keys()
    for name, gradient in exact.items():
        assert rough[name].dtype == torch.float32
        assert (rough[name] - gradient).norm() <= 0.3 * gradient.norm(), name


def test_eager_attention_gives_maps(make_model):
    """A forward hook on the attention modules sees the maps of every update."""
    model, maps = make_model(), []
    model.set_attn_implementation("eager")
    attention = model.model.networks["shared"].layers[0].mixer.attention
    attention.register_forward_hook(lambda module, inputs, output: maps.append(output[1]))
    model(questions(model))
    assert len(maps) == 6  # 2 cycles of 2 L-updates and an H-update
    assert all(m.shape == (3, 2, 17, 17) for m in maps)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(3, 2, 17))


@ALL
def test_saved_and_loaded_models_are_equal(make_model, variant, tmp_path):
    model = make_model(variant)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert all(getattr(loaded.config, name) == getattr(model.config, name) for name in CONFIG_FIELDS)
    assert torch.equal(loaded(questions(model)).logits, model(questions(model)).logits)
    assert torch.equal(loaded.solve(questions(model)).sequences, model.solve(questions(model)).sequences)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights(make_model, dtype):
    model = make_model().to(dtype)
    output = model(questions(model))
    assert output.state.z_l.dtype == output.logits.dtype == dtype
    assert output.q_halt_logits.dtype == torch.float32


@pytest.mark.parametrize(("halting", "loss_function"), [("q_learning", "stablemax"), ("halt_only", "softmax")])
def test_unlabelled_boards_do_not_make_nan(make_model, halting, loss_function):
    model = make_model(halting=halting, loss_function=loss_function).train()
    ids = questions(model)
    labels = ids.clone()
    labels[1] = -100
    output = model(ids, labels=labels)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    everything = model(ids, labels=torch.full_like(ids, -100))
    assert everything.losses.lm == 0
    assert everything.loss.isfinite()


def test_losses_by_hand(make_model):
    """Stablemax and softmax cross entropy, mean over a puzzle's labelled cells, cell by cell in Python floats."""
    for loss_function in ("stablemax", "softmax"):
        model = make_model(loss_function=loss_function)
        ids = questions(model)
        labels = questions(model, seed=5)
        labels[:, ::3] = -100
        output = model(ids, labels=labels)
        total = 0.0
        for logits, answer in zip(output.logits.double(), labels, strict=True):
            cells = []
            for scores, label in zip(logits, answer, strict=True):
                if label >= 0:
                    weights = [
                        (x + 1 if x >= 0 else 1 / (1 - x)) if loss_function == "stablemax" else math.exp(x)
                        for x in scores.tolist()
                    ]
                    cells.append(-math.log(weights[label] / sum(weights)))
            total += sum(cells) / len(cells)
        assert output.losses.lm.item() == pytest.approx(total, rel=1e-5)
        assert output.losses.q_continue == 0  # evaluation mode has no target


def test_q_learning_target(make_model):
    model = make_model(max_segments=2).train()
    ids = questions(model)
    first = model(ids)
    inputs = model.model.encode(ids)
    following = model(ids, state=first.state)
    expected = torch.maximum(following.q_halt_logits, following.q_continue_logits).sigmoid()
    torch.testing.assert_close(model.q_continue_target(inputs, first.state), expected)
    last = model(ids, state=following.state)
    torch.testing.assert_close(model.q_continue_target(inputs, following.state), last.q_halt_logits.sigmoid())
    assert model(ids, labels=ids).losses.q_continue > 0
    assert make_model(halting="halt_only").train()(ids, labels=ids).losses.q_continue == 0


def test_solve_runs_all_segments(make_model):
    model = make_model()
    ids, state = questions(model), None
    for _ in range(4):
        output = model(ids, state=state)
        state = output.state
    solution = model.solve(ids)
    assert torch.equal(solution.sequences, output.logits.argmax(-1))
    assert torch.equal(solution.q_halt_logits, output.q_halt_logits)
    assert solution.num_segments.tolist() == [4, 4, 4]


@pytest.mark.parametrize("halting", ["q_learning", "halt_only"])
def test_solve_with_early_stop_does_not_depend_on_the_batch(make_model, halting):
    model = make_model(halting=halting, max_segments=8).double()  # random networks amplify rounding by batch shape
    ids, state, margins = questions(model, count=24), None, []
    for _ in range(8):
        output = model(ids, state=state)
        state = output.state
        margins.append(output.q_halt_logits - (output.q_continue_logits if halting == "q_learning" else 0))
    threshold = torch.stack(margins).quantile(0.9).item()
    together = model.solve(ids, early_stop=True, q_halt_threshold=threshold)
    assert len(set(together.num_segments.tolist())) > 1
    for index in range(len(ids)):
        alone = model.solve(ids[index : index + 1], early_stop=True, q_halt_threshold=threshold)
        assert torch.equal(alone.sequences[0], together.sequences[index])
        assert alone.num_segments[0] == together.num_segments[index]
    eager, patient = (model.solve(ids, early_stop=True, q_halt_threshold=limit) for limit in (-100.0, 100.0))
    assert set(eager.num_segments.tolist()) == {1}
    assert set(patient.num_segments.tolist()) == {8}


def test_puzzle_ids_choose_the_prefix(make_model):
    model = make_model(num_puzzle_ids=3, prefix_len=2, prefix_dim=40)
    torch.nn.init.normal_(model.model.prefix.weight)
    ids = questions(model, count=1).expand(3, -1)
    logits = model(ids, puzzle_ids=torch.tensor([0, 1, 1])).logits
    assert torch.equal(logits[1], logits[2])
    assert not torch.allclose(logits[0], logits[1])
    assert torch.equal(model(ids).logits[0], logits[0])


@pytest.mark.parametrize(
    "fields", [{"position_embedding": "learned"}, {"prefix_len": 0}, {"position_embedding": "none"}]
)
def test_other_positions_and_no_prefix(make_model, fields):
    model = make_model(**fields).train()
    output = model(questions(model), labels=questions(model))
    output.loss.backward()
    assert output.logits.shape == (3, 16, 6)
    assert all(p.grad is not None for p in model.parameters())


def test_bad_input(make_model):
    model = make_model()
    with pytest.raises(
        ValueError, match=r"input_ids has shape \(1, 81\); this model takes \(puzzles, 16\) boards of sudoku-4x4"
    ):
        model(torch.ones(1, 81, dtype=torch.long))
    with pytest.raises(TypeError, match="unexpected keyword argument 'attention_mask'"):
        model(questions(model), attention_mask=None)
    with pytest.raises(ValueError, match=r"state's z_h has shape \(1, 17, 32\); these questions need \(3, 17, 32\)"):
        model(questions(model), state=model.initial_state(1))
    with pytest.raises(ValueError, match="max_segments is 0"):
        model.solve(questions(model), max_segments=0)


@pytest.mark.parametrize("value", [None, 3, "x", [[1] * 16] * 3])
def test_what_is_no_tensor_is_named(make_model, value):
    model, ids = make_model(), torch.ones(3, 16, dtype=torch.long)
    for call in (model, model.solve):
        with pytest.raises(ValueError, match=r"input_ids is of type .*; expected a tensor"):
            call(value)
    if value is not None:
        for name in ("labels", "puzzle_ids"):
            with pytest.raises(ValueError, match=f"{name} is of type .*; expected a tensor"):
                model(ids, **{name: value})
        with pytest.raises(ValueError, match=r"puzzle_ids is of type .*; expected a tensor"):
            model.solve(ids, puzzle_ids=value)


def test_states_of_another_type_are_named(make_model):
    model, ids = make_model(), torch.ones(3, 16, dtype=torch.long)
    state = model.initial_state(3)
    for name, other in (("z_h", state.z_h.long()), ("z_l", state.z_l.to(torch.complex64)), ("num_segments", 3),
                        ("num_segments", state.num_segments.float())):  # fmt: skip
        with pytest.raises(ValueError, match=f"the state's {name} is of "):
            model(ids, state=dataclasses.replace(state, **{name: other}))
    for other in ("x", (state.z_h, state.z_l)):
        with pytest.raises(ValueError, match=r"state is of type (str|tuple); expected an AIRState"):
            model(ids, state=other)


def test_tensors_without_values_in_their_places_are_named(make_model):
    model, ids = make_model(), torch.ones(3, 16, dtype=torch.long)
    with pytest.raises(ValueError, match=r"input_ids is a tensor of layout torch\.sparse_coo; expected a dense one"):
        model(ids.to_sparse())
    with pytest.raises(ValueError, match="input_ids is on the device meta, where there are no values"):
        model.solve(ids.to("meta"))


@pytest.mark.parametrize("ids", [torch.tensor([0.0, 0, 0]), torch.tensor([[0]] * 3), torch.tensor([0, 0, 9])])
def test_puzzle_ids_in_solving_are_looked_at(make_model, ids):
    with pytest.raises(ValueError, match="puzzle_ids "):
        make_model().solve(torch.ones(3, 16, dtype=torch.long), puzzle_ids=ids)


@pytest.mark.parametrize("name", ["noise", "q_halt_threshold"])
def test_numbers_that_no_tensor_holds_are_refused(make_model, name):
    for value in (2**64, 10**400):
        with pytest.raises(ValueError, match=f"{name} is 1.*; expected a number"):
            make_model().solve(torch.ones(3, 16, dtype=torch.long), **{name: value})


def test_tuple_output(make_model):
    model = make_model()
    logits, q_halt, q_continue, state = model(questions(model), return_dict=False)
    assert isinstance(state, AIRState)
    assert logits.shape == (3, 16, 6)
    assert q_halt.shape == q_continue.shape == (3,)


@pytest.mark.parametrize("fields", [{}, {"mixer": "mlp", "position_embedding": "none"}])
def test_a_segment_is_exported_by_torch_for_any_batch(make_model, fields):
    model, ids = make_model(**fields), torch.randint(6, (5, 16))
    state = model(ids[:3]).state
    batch = torch.export.Dim("batch", min=2)
    shapes = {"input_ids": {0: batch}, "state": [{0: batch}] * 3}
    exported = torch.export.export(model, (), {"input_ids": ids[:3], "state": state}, dynamic_shapes=shapes).module()
    ours = theirs = model(ids)
    for _ in range(2):
        ours, theirs = model(ids, state=ours.state), exported(input_ids=ids, state=theirs.state)
        torch.testing.assert_close(theirs.logits, ours.logits)
        torch.testing.assert_close(theirs.state.z_l, ours.state.z_l)
    torch.testing.assert_close(torch.export.export(model, (ids,)).module()(ids).logits, model(ids).logits)


def test_transformers_trainer_predicts(make_model, tmp_path):
    """Of what a segment gives, it gathers the tensors and leaves states and parts of the loss."""
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(1, 6, (6, 16))]
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=4, report_to="none", use_cpu=True)
    found = Trainer(make_model(), arguments, eval_dataset=rows).predict(rows)
    logits = make_model()(torch.stack([row["input_ids"] for row in rows])).logits
    np.testing.assert_allclose(found.predictions[0], logits.detach().numpy(), atol=1e-5)


def test_tables_made_in_a_trace_are_not_kept(make_model):
    """They are memory of a graph, which its next call may write over."""
    torch._dynamo.reset()
    model = make_model()
    ids = torch.randint(1, 6, (2, 16), generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        traced = compiled(ids).logits
        assert not model.model._rotary_tables
        assert torch.equal(model(ids).logits, traced)
    (kept,) = model.model._rotary_tables.values()
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(compiled(ids).logits, traced)  # and by tables that were there before
    assert next(iter(model.model._rotary_tables.values())) is kept


@ALL
def test_what_is_written_into_a_fresh_state_is_written_there_alone(make_model, variant):
    model = make_model(variant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = model.initial_state(2), model.initial_state(1)
    for state in states:
        state.z_h[0, 3], state.z_l[0, 3] = 7.0, 8.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    fresh = model.initial_state(2)
    changed = (states[0].z_h != fresh.z_h).any(-1)
    assert changed.nonzero().tolist() == [[0, 3]]


def test_the_loss_is_the_first_item(make_model):
    model = make_model()
    ids = questions(model)
    output = model(ids, labels=ids)
    assert output[0] is output.loss is output.losses.loss
    assert output.to_tuple()[1] is output.logits
    model.config.return_dict = False
    assert isinstance(model(ids), tuple)
    assert model(ids, return_dict=True).loss is None


class _Doubled(torch.nn.Linear):
    """A layer of another class, as an adapter's is."""

    def forward(self, values):
        return 2 * super().forward(values)


def test_layers_of_the_position_mixer_may_be_hooked_and_replaced(make_model):
    model = make_model("trm-mlp").eval()
    ids, mlp = questions(model), model.model.networks["shared"].layers[0].mixer.mlp
    plain = model(ids).logits
    for layer in (mlp, mlp.gate_up_proj, mlp.down_proj):
        calls = []
        handle = layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.testing.assert_close(model(ids).logits, plain)
        handle.remove()
        assert calls
    weight = mlp.down_proj.weight
    mlp.down_proj = _Doubled(weight.shape[1], weight.shape[0], bias=False)
    mlp.down_proj.weight.data = weight.data / 2
    torch.testing.assert_close(model(ids).logits, plain)
    torch.nn.utils.parametrizations.weight_norm(mlp.gate_up_proj)
    torch.testing.assert_close(model(ids).logits, plain)


@pytest.mark.parametrize(
    "fields",
    [{}, {"mixer": "mlp", "position_embedding": "none"}, {"mixer": "convolution", "position_embedding": "none"}],
)
def test_gradients_of_single_puzzles_by_vmap(make_model, fields):
    """On a new model, which has no tables of angles yet; afterwards it is as it was."""
    model = make_model(**fields, puzzle="sudoku-4x4").eval()
    model.set_attn_implementation("eager")
    ids = questions(model)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights, ids):
        return torch.func.functional_call(model, weights, (ids[None],), {"labels": ids[None]}).loss

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, ids)
    for index in range(len(ids)):
        model.zero_grad()
        model(ids[index : index + 1], labels=ids[index : index + 1]).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name][index], parameter.grad, rtol=1e-4, atol=1e-5)
    copy.deepcopy(model)


def test_weights_may_be_kept_elsewhere(make_model):
    model = make_model().eval()
    ids = questions(model)
    plain = model(ids).logits
    offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert offloaded.lm_head.weight.is_meta
    assert torch.equal(offloaded(ids).logits, plain)


def test_a_whole_model_compiles_to_one_graph(make_model):
    model = make_model().eval()
    ids = questions(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(ids).logits, model(ids).logits)
