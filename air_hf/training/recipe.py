"""How the weights are trained, field by field; what a run is besides is in `air_hf.run_recipe`."""

from dataclasses import dataclass
from typing import Any, Literal

from air_hf.training.fields import DECAY, NOT_NEGATIVE, POSITIVE, SEED, SHARE, SIZE, Settings, setting
from air_hf.training.optimizers import OPTIMIZERS


@dataclass
class Recipe(Settings):
    """What a [`Learner`] is told.

    Raises:
        ValueError: a value of the wrong type or out of its range, or fields that contradict one another; the message
            names them.
    """

    max_steps: int = setting(10_000, "training steps: one segment of every slot each", POSITIVE, published=True)
    batch_size: int = setting(64, "slots, over all processes", SIZE, published=True)
    accumulation_steps: int = setting(
        1,
        "parts in which a process runs its slots, one after another, to save memory",
        POSITIVE,
        published=True,
        may_change=True,
        rounds=True,
    )
    max_memory: float | None = setting(
        None,
        "GiB a process may use; a run that needs more by the count made at its start is refused, with advice",
        POSITIVE,
        may_change=True,
    )
    optimizer: Literal[tuple(OPTIMIZERS)] = setting(
        "adam_atan2",
        "of all weights but the prefix table; muon: of the matrices, and adamw of the rest",
        published=True,
    )
    learning_rate: float = setting(1e-3, "of all weights but the prefix table", POSITIVE, published=True)
    muon_learning_rate: float | None = setting(
        None,
        "muon: of the matrices, whose updates have the size of AdamW's (default: learning_rate)",
        POSITIVE,
        published=True,
    )
    warmup_steps: int = setting(100, "steps of linear warm-up; 0 for none", NOT_NEGATIVE, published=True)
    min_lr_ratio: float = setting(
        1.0, "end of the cosine as a share of the learning rate; 1 for a constant rate", SHARE, published=True
    )
    weight_decay: float = setting(0.1, "decoupled; times the learning rate", NOT_NEGATIVE, published=True)
    decay: Literal["all", "matrices"] = setting(
        "all", "what weight_decay applies to: all weights, or no embeddings, biases and tokens", published=True
    )
    adam_beta1: float = setting(0.9, "adam_atan2 and adamw", DECAY, published=True)
    adam_beta2: float = setting(0.95, "adam_atan2 and adamw", DECAY, published=True)
    muon_momentum: float = setting(0.6, "muon; the usual 0.95 is slower here", DECAY, published=True)
    max_grad_norm: float = setting(
        0.0,
        "clip the gradient of all weights but the prefix table to this norm; 0 for off",
        NOT_NEGATIVE,
        published=True,
    )
    prefix_learning_rate: float = setting(1e-2, "sign-SGD on the prefix table", NOT_NEGATIVE, published=True)
    prefix_weight_decay: float = setting(0.1, "sign-SGD on the prefix table, decoupled", NOT_NEGATIVE, published=True)
    halt_exploration_prob: float = setting(
        0.1, "share of slots that must run a random number of segments", SHARE, published=True
    )
    halt_delay_prob: float = setting(
        0.0, "share of slots, drawn at every step, that stay though they wish to halt", SHARE, published=True
    )
    state_noise: float = setting(
        0.0,
        "standard deviation of the Gaussian noise on both states before every segment",
        NOT_NEGATIVE,
        published=True,
    )
    slots_out_of_step: bool = setting(
        False, "let every slot's first puzzle end after another number of segments, so that slots do not halt together",
        published=True,
    )  # fmt: skip
    max_skipped_steps: int = setting(
        0,
        "steps with a gradient that is not finite to leave out before the run stops",
        NOT_NEGATIVE,
        published=True,
        may_change=True,
    )
    ema_decay: float = setting(
        0.999, "decay of the average of the weights that is evaluated and saved; 0 for none", DECAY, published=True
    )
    mixed_precision: Literal["auto", "no", "bf16"] | None = setting(
        None,
        "bf16: bfloat16 forward over float32 weights; auto: where the device has units for it (default: as launched)",
        published=True,
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = setting(
        "auto", "attention backend; auto: eager on CPU, where it trains faster, sdpa elsewhere", published=True
    )
    compile: Literal["auto", "on", "off", "reduce-overhead"] = setting(
        "auto",
        "torch.compile of the networks; auto: on, except on a CPU without a C++ compiler, which it needs; "
        "reduce-overhead: with CUDA graphs, where the device has them",
        published=True,
        may_change=True,
        rounds=True,
    )
    seed: int = setting(0, "weights, order of the data, symmetries and exploration", SEED, published=True)

    def __post_init__(self):
        super().__post_init__()
        if self.warmup_steps > self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) is more than max_steps ({self.max_steps})")
        if self.batch_size % self.accumulation_steps:
            steps = self.accumulation_steps
            raise ValueError(f"batch_size ({self.batch_size}) is not a multiple of accumulation_steps ({steps})")

    @property
    def settled(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one before: what decides its weights' path."""
        free = set(self.marked("may_change"))
        # A constant learning rate does not depend on where the run ends, so such a run may be lengthened.
        if self.min_lr_ratio == 1:
            free.add("max_steps")
        return {name: value for name, value in vars(self).items() if name not in free}
