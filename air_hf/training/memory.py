"""What a run keeps in memory, counted from its configuration; nothing is run.

Axis letters: B slots, T positions the network sees, D hidden size, I width of a SwiGLU.
"""

from dataclasses import dataclass

from air_hf.modeling import AIRConfig
from air_hf.training.learner import Learner

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that one process holds at the height of a step, by component; without the backward pass's working memory.

    Args:
        weights, gradients, moments, averages (`int`): the model, its gradients (twice, where processes exchange them),
            what the optimiser keeps, and the EMA.
        carry (`int`): states and puzzles of the process's slots: as the step before left them, refilled (in float32),
            and as this one leaves them, in parts and joined.
        activations (`int`): what the slots that run at a time keep for the backward pass, without compilation, which
            saves some of it; see [`estimate_activations`].
        checkpoint (`int`): of these and the other processes' slots, on the disk.
    """

    weights: int
    gradients: int
    moments: int
    averages: int
    carry: int
    activations: int
    checkpoint: int

    @property
    def total(self) -> int:
        """Bytes of all that is in memory."""
        return self.weights + self.gradients + self.moments + self.averages + self.carry + self.activations

    def __str__(self) -> str:
        names = ("weights", "gradients", "moments", "averages", "carry", "activations")
        parts = ", ".join(f"{name} {getattr(self, name) / _MIB:,.1f}" for name in names)
        total, checkpoint = self.total / _MIB, self.checkpoint / _MIB
        return f"memory of a process: about {total:,.1f} MiB ({parts}); a checkpoint: {checkpoint:,.1f} MiB"


def estimate_memory(learner: Learner) -> MemoryNeeds:
    """Counts what a run needs.

    Raises:
        ValueError: it is more than `max_memory`; the message says how many `accumulation_steps` would do.
    """
    recipe, model = learner.recipe, learner.model
    config, processes = model.config, learner.accelerator.num_processes
    slots = recipe.batch_size // processes
    size = 2 if recipe.mixed_precision == "bf16" else model.dtype.itemsize
    weights = _bytes(model.state_dict().values())
    trained = _bytes(model.parameters())
    moments = learner.optimizer.state_size
    averages = trained if learner.ema else 0
    puzzle = 8 * (2 * config.seq_len + 1)  # question, answer and id
    states = 2 * config.num_positions * config.hidden_size
    stored = slots * (size * states + 8 + puzzle + 1)  # with the segment count, and a byte for `halted`
    refilled = slots * (model.dtype.itemsize * states + 8 + puzzle)

    def needs(parts: int) -> MemoryNeeds:
        activations = slots // parts * estimate_activations(config, size)
        gradients = trained * (1 if processes == 1 else 2)
        carry = refilled + (2 if parts == 1 else 3) * stored
        checkpoint = 2 * weights + moments + averages + processes * stored
        return MemoryNeeds(weights, gradients, moments, averages, carry, activations, checkpoint)

    found = needs(recipe.accumulation_steps)
    if recipe.max_memory is not None and found.total > recipe.max_memory * _GIB:
        choices = [parts for parts in range(1, slots + 1) if slots % parts == 0]
        enough = [parts for parts in choices if needs(parts).total <= recipe.max_memory * _GIB]
        advice = f"accumulation_steps {enough[0]} is enough" if enough else "no accumulation_steps is enough"
        raise ValueError(f"max_memory is {recipe.max_memory:g} GiB; {found}. {advice}")
    return found


def _bytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def estimate_activations(config: AIRConfig, size: int) -> int:
    """Bytes that one slot keeps from a segment for its backward pass, uncompiled.

    Args:
        config ([`AIRConfig`]): the model.
        size (`int`): bytes of a number of the states, 2 or 4.
    """
    tokens, width = config.num_network_positions, config.hidden_size
    block = (
        _mixer(config, size)
        + _swiglu(tokens * config.feature_groups, config.group_size, config.intermediate_size, size)
        + 2 * 4 * tokens  # the factor of each row of a norm, whose result is what the next layer reads
    )
    updates = sum(update.keeps_graph for update in config.schedule)
    # The loss: stablemax's float64 quantities, four of them, or softmax's single float32 one; and what the head reads.
    per_symbol = 4 * 8 if config.loss_function == "stablemax" else 4
    head = config.seq_len * (config.vocab_size * (size + per_symbol) + width * size)
    return updates * config.num_hidden_layers * block + head


def _swiglu(tokens: int, width: int, inner: int, size: int) -> int:
    """A SwiGLU keeps what it reads, gate and value, the gate after SiLU, and their product."""
    return size * tokens * (width + 4 * inner)


def _mixer(config: AIRConfig, size: int) -> int:
    tokens, width = config.num_network_positions, config.hidden_size
    if config.mixer == "mlp":
        # And the norm's result, which lies as positions do, where the next layer reads a copy.
        return _swiglu(width, tokens, config.position_intermediate_size, size) + size * tokens * width
    if config.mixer in ("convolution", "candidates"):
        # Its argument, the board cut out of it, both sums, the gate after SiLU, and the product.
        sums = 4 / config.feature_groups if config.mixer == "candidates" else 0  # over rows, columns, boxes and cells
        return int(size * tokens * (6 + sums) * width)
    kept = size * tokens * 5 * width  # what the projections read, queries, keys and values
    if config._attn_implementation == "eager":
        kept += config.num_attention_heads * tokens**2 * (4 + (size if size != 4 else 0))  # maps, also in float32
    else:
        kept += tokens * (size * width + 4 * config.num_attention_heads)  # the output and its normalisers
        if config.position_embedding == "rotary":  # values are a part of one array with unrotated queries and keys
            kept += 2 * size * tokens * width
    return kept
