"""One training step, the same for every variant: carry, optimisers, EMA; the loss is the model's.

Axis letters: B slots of a batch, S cells.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DynamoBackend
from torch import nn

from air_hf.modeling import AIRForPuzzleSolving, AIRPuzzleSolvingOutput, AIRState
from air_hf.modeling.modeling_air import IGNORE_LABEL
from air_hf.puzzles import puzzle_of
from air_hf.training.backend import should_compile
from air_hf.training.carry import Carry, draw_least_segments, has_halted, initial_carry, refill
from air_hf.training.ema import EMA
from air_hf.training.optimizers import GroupedOptimizer, scheduled_lr
from air_hf.training.recipe import Recipe

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is infinite or not a number; the message says at which step, rate and puzzles."""


class Learner:
    """A model in training: its optimiser, its EMA and the puzzles in its slots.

    Args:
        model ([`AIRForPuzzleSolving`]): the model; moved to the accelerator's device.
        recipe ([`Recipe`]): how to train it.
        accelerator (`Accelerator`): device, precision and processes.

    Raises:
        ValueError: an accelerator with float16, sharded weights, or an accumulation or compilation of its own; weights
            in less than float32.

    Attributes:
        model: the bare model.
        recipe ([`Recipe`]): as given, with the precision of the accelerator.
        optimizer ([`GroupedOptimizer`]): what updates the weights.
        ema ([`EMA`], *optional*): the average of the weights, where the recipe has one.
        compiled (`bool`): whether its networks are compiled.
        step (`int`): steps done.
        skipped (`int`): steps among them whose gradient was not finite and changed nothing.
        carry ([`Carry`], *optional*): None before the first step.
    """

    def __init__(self, model: AIRForPuzzleSolving, recipe: Recipe, accelerator: Accelerator):
        if accelerator.mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision is {accelerator.mixed_precision!r}; expected 'no' or 'bf16'")
        if accelerator.distributed_type in _SHARDED:
            raise ValueError(
                f"the processes are started for {accelerator.distributed_type.value}; expected plain data parallelism: "
                "weights, moments and averages of these models fit every device, and activations, which do not always, "
                "are cut by accumulation_steps"
            )
        if low := next((f"{n} is of {p.dtype}" for n, p in model.named_parameters() if p.dtype.itemsize < 4), None):
            raise ValueError(
                f"{low}, which a step or an average of weights is often too small to change; load the model with "
                "dtype=torch.float32 (mixed_precision 'bf16' calculates in bfloat16)"
            )
        if accelerator.gradient_accumulation_steps != 1:
            steps = accelerator.gradient_accumulation_steps
            raise ValueError(f"the accelerator has gradient_accumulation_steps {steps}; say accumulation_steps instead")
        if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            backend = accelerator.state.dynamo_plugin.backend.value
            raise ValueError(f"the accelerator has the dynamo_backend {backend}; say compile instead")
        # As launched, so that a run goes on in the precision it began with.
        self.recipe = dataclasses.replace(recipe, mixed_precision=accelerator.mixed_precision)
        self.accelerator = accelerator
        self.compiled = should_compile(recipe.compile, accelerator.device)
        self._graphs = recipe.compile == "reduce-overhead"
        if self.compiled:
            for network in model.model.networks.values():
                network.compile(dynamic=False, mode=recipe.compile if self._graphs else None)
        self._wrapped: nn.Module = accelerator.prepare(model)
        self.model: AIRForPuzzleSolving = accelerator.unwrap_model(self._wrapped)
        self.optimizer = GroupedOptimizer(self.model, recipe)
        self.ema = EMA(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self.carry: Carry | None = None
        self.step = 0
        self.skipped = 0

    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs one segment of every slot and updates the weights.

        Args:
            batch (`dict[str, torch.Tensor]`): this process's `input_ids` (B, S), `labels` (B, S) and `puzzle_ids` (B,);
                only slots that have halted take theirs.

        Returns:
            `dict[str, torch.Tensor]`: sums over this process's slots, see [`step_metrics`].

        Raises:
            ValueError: another number of puzzles than before, or one that `accumulation_steps` does not divide.
            NonFiniteError: a gradient is not finite, and `max_skipped_steps` have been skipped already.
        """
        self._check_size(len(batch["input_ids"]))
        self._wrapped.train()
        batch = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        parts = self._begin(batch)
        if self._graphs:  # a graph writes over what it gave in the step before, of which the parts are copies
            torch.compiler.cudagraph_mark_step_begin()
        outputs = [self._run_part(part, len(parts), is_last=part is parts[-1]) for part in parts]
        loss = torch.stack([output.loss.detach() for output in outputs]).mean()
        finite = self._is_finite(loss)
        if finite:
            self._update_weights(torch.cat([part.batch["puzzle_ids"] for part in parts]))
        else:
            self._skip_step(Carry.join(parts), torch.cat([output.logits for output in outputs]), float(loss))
        metrics, carries = [], []
        least_segments = self._least_segments(self._num_slots(batch)).chunk(len(parts))
        for output, part, least in zip(outputs, parts, least_segments, strict=True):
            halted = has_halted(self.model, output, least) if finite else torch.ones_like(part.halted)
            metrics.append(step_metrics(output, part.batch["labels"], halted & finite))
            carries.append(Carry(output.state, halted, part.batch))
        self.carry = Carry.join(carries)
        return {name: sum(part[name] for part in metrics) for name in metrics[0]}

    @contextmanager
    def evaluating(self) -> Iterator[AIRForPuzzleSolving]:
        """The model as it is scored: with the averages of its weights, where there are any, for as long as the block.

        CUDA graphs are left out: a rollout hands states from segment to segment that a graph would write over.
        """
        with ExitStack() as stack:
            if self.ema is not None:
                stack.enter_context(self.ema.applied_to(self.model))
            if self._graphs:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield self.model

    def _check_size(self, puzzles: int) -> None:
        """Checks that a batch fills this process's slots, in equal parts."""
        slots = puzzles if self.carry is None else len(self.carry.halted)
        if puzzles != slots:
            raise ValueError(f"a batch of {puzzles} puzzles was given to {slots} slots; expected as many as slots")
        if puzzles % self.recipe.accumulation_steps:
            raise ValueError(
                f"a batch of {puzzles} puzzles was given; expected a multiple of accumulation_steps "
                f"({self.recipe.accumulation_steps})"
            )

    def _begin(self, batch: dict[str, torch.Tensor]) -> list[Carry]:
        """The slots of this step in their parts, those that had halted with a new puzzle.

        Part by part: a token kept in fresh states has a gradient, whose graph is gone after a part's backward pass.
        """
        num_parts = self.recipe.accumulation_steps
        carry = self.carry or initial_carry(self.model, batch)
        waiting = Carry(carry.state, carry.halted, batch).split(num_parts)
        parts = [refill(self.model, part, new.batch) for part, new in zip(carry.split(num_parts), waiting, strict=True)]
        if self.carry is None and self.recipe.slots_out_of_step:
            drawn = self._rng(3).integers(self.model.config.max_segments, size=self._num_slots(batch))
            for part, counts in zip(parts, self._own_part(torch.from_numpy(drawn)).chunk(num_parts), strict=True):
                part.state.num_segments = counts
        if self.recipe.state_noise:
            noise_h, noise_l = (each.chunk(num_parts) for each in self._draw_noise(carry.state))
            for part, of_h, of_l in zip(parts, noise_h, noise_l, strict=True):
                part.state.z_h, part.state.z_l = part.state.z_h + of_h, part.state.z_l + of_l
        return parts

    def _run_part(self, part: Carry, parts: int, is_last: bool) -> AIRPuzzleSolvingOutput:
        """One segment of some slots, forward and backward; gradients travel between processes with the last part."""
        with nullcontext() if is_last else self.accelerator.no_sync(self._wrapped):
            output = self._wrapped(**part.batch, state=part.state)
            self.accelerator.backward(output.loss / parts)
        return output

    def _is_finite(self, loss: torch.Tensor) -> bool:
        """Whether loss and gradients are, with the same answer on every process.

        Gradients are averaged over all of them, and one that is not finite spoils the average.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        loss = self.accelerator.reduce(loss, reduction="sum")
        return bool(torch.stack([loss.float(), *torch._foreach_norm(gradients)]).isfinite().all())

    def _skip_step(self, carry: Carry, logits: torch.Tensor, loss: float) -> None:
        """Counts a step that leaves the weights alone.

        Raises:
            NonFiniteError: `max_skipped_steps` have been skipped already.
        """
        self._wrapped.zero_grad(set_to_none=True)
        if self.skipped == self.recipe.max_skipped_steps:
            ids = sorted(set(carry.batch["puzzle_ids"].tolist()))
            rate = self.recipe.learning_rate * self._lr_ratio(self.step + 1)
            raise NonFiniteError(
                f"step {self.step + 1}: the loss or a gradient is not finite (loss {loss:g}, learning rate {rate:g}, "
                f"puzzle ids {ids[:20]}{self._name_culprits(carry, logits)}); {self.skipped} such steps were skipped "
                "before. Checkpoints are from before that"
            )
        self.skipped += 1
        self.step += 1

    def _name_culprits(self, carry: Carry, logits: torch.Tensor) -> str:
        """How many slots have logits that are not finite, and the first one's board: all puzzles may share an id."""
        culprits = (~logits.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        if not culprits:
            return ""
        board = carry.batch["input_ids"][culprits[0]].cpu().numpy()
        puzzle = puzzle_of(self.model.config)
        board = board.tolist() if puzzle is None else puzzle.format(board)
        return f", logits not finite in {len(culprits)} of {len(logits)} slots, the first: {board}"

    def _lr_ratio(self, step: int) -> float:
        recipe = self.recipe
        return scheduled_lr(step, 1.0, recipe.warmup_steps, recipe.max_steps, recipe.min_lr_ratio)

    def _update_weights(self, used_ids: torch.LongTensor) -> None:
        self.step += 1
        if self.model.config.num_puzzle_ids > 1:  # all processes must know whose rows have a gradient
            used_ids = self.accelerator.gather(used_ids)
        self.optimizer.step(self._lr_ratio(self.step), used_ids)
        self._wrapped.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, self.step)

    def _least_segments(self, slots: int) -> torch.Tensor:
        """This process's part of all slots' exploration and delay, a function of (seed, step) alone."""
        most, recipe = self.model.config.max_segments, self.recipe
        return self._own_part(
            draw_least_segments(slots, most, recipe.halt_exploration_prob, recipe.halt_delay_prob, self._rng(2))
        )

    def _draw_noise(self, state: AIRState) -> list[torch.Tensor]:
        """What is added to z_H and to z_L; on one kind of device, a function of (seed, step) alone."""
        generator = torch.Generator(self.accelerator.device).manual_seed(int(self._rng(6).integers(2**63)))
        shape = (len(state.num_segments) * self.accelerator.num_processes, *state.z_l.shape[1:])
        drawn = [torch.randn(shape, generator=generator, device=state.z_l.device) for _ in ("z_h", "z_l")]
        return [self.recipe.state_noise * self._own_part(noise).to(state.z_l.dtype) for noise in drawn]

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, purpose, self.step])

    def _num_slots(self, batch: dict[str, torch.Tensor]) -> int:
        return len(batch["input_ids"]) * self.accelerator.num_processes

    def _own_part(self, values: torch.Tensor) -> torch.Tensor:
        """What belongs to this process of a tensor over all slots."""
        size = len(values) // self.accelerator.num_processes
        rank = self.accelerator.process_index
        return values[rank * size : (rank + 1) * size].to(self.accelerator.device, non_blocking=True)


@torch.no_grad()
def step_metrics(
    output: AIRPuzzleSolvingOutput, labels: torch.LongTensor, halted: torch.BoolTensor
) -> dict[str, torch.Tensor]:
    """Sums over slots, float32 scalars.

    `count` slots have just halted on a labelled board; `accuracy`, `exact_accuracy`, `q_halt_accuracy` and `steps` are
    sums over these. `slots` and the losses `lm_loss`, `q_halt_loss`, `q_continue_loss` are sums over all slots.
    """
    labelled = labels != IGNORE_LABEL
    counts = labelled.sum(-1)
    right_cells = (labelled & (output.logits.argmax(-1) == labels)).sum(-1)
    right = right_cells == counts
    valid = halted & (counts > 0)

    def total(values: torch.Tensor) -> torch.Tensor:
        return torch.where(valid, values.float(), 0.0).sum()

    return {
        "slots": torch.full((), len(labels), dtype=torch.float32, device=labels.device),
        "count": valid.float().sum(),
        "accuracy": total(right_cells / counts.clamp(min=1)),
        "exact_accuracy": total(right),
        "q_halt_accuracy": total((output.q_halt_logits >= 0) == right),
        "steps": total(output.state.num_segments),
        "lm_loss": output.losses.lm.detach().float(),
        "q_halt_loss": output.losses.q_halt.detach(),
        "q_continue_loss": output.losses.q_continue.detach(),
    }
