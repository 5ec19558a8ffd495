"""Configuration of the recurrent puzzle solvers AIR, HRM and TRM: every variant is a set of values of these fields."""

import re
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


_LARGEST = {
    "vocab_size": 2**20,
    "seq_len": 2**20,
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10,
    "expansion": 2**10,
    "h_cycles": 2**10,
    "l_cycles": 2**10,
    "max_segments": 2**16,
    "num_puzzle_ids": 2**24,
    "prefix_len": 2**16,
}
_MOST_WEIGHTS = 2**34


def _swiglu_size(hidden_size: int, expansion: float) -> int:
    """Width of a SwiGLU: 2/3 of the nominal expansion (it has three matrices, not two), in whole multiples of 256."""
    return -(-round(expansion * hidden_size * 2 / 3) // 256) * 256


@strict
class AIRConfig(PreTrainedConfig):
    r"""Configuration of [`AIRForPuzzleSolving`].

    The symbols of the paper (AIR, arXiv 2605.17811) and the fields that hold them: D `hidden_size`, V `vocab_size`,
    S `seq_len` (cells of a board), P `prefix_len` (positions in front of the cells), E `prefix_dim`,
    n_L `l_injections`, n_H `h_injections`, g `input_operator`, t_L and t_H `level_token`.

    Args:
        vocab_size (`int`): number of symbols V, padding included.
        seq_len (`int`): number of cells S of a board; a checkpoint solves boards of exactly this size.
        hidden_size (`int`): width D of the two latent states.
        num_hidden_layers (`int`): blocks in each network f.
        num_attention_heads (`int`): attention heads of a block; must divide `hidden_size` into even parts.
        expansion (`float`): nominal widening of the feed-forward layers; see `intermediate_size`.
        h_cycles (`int`): cycles of a segment; each ends with one H-update.
        l_cycles (`int`): L-updates in a cycle.
        max_segments (`int`): segments after which a puzzle is given up (in training) or answered (in solving).
        l_injections (`int`): n_L, how many times g(x) is added to the argument of the L-update: 0, 1 or 2.
        h_injections (`int`): n_H, how many times x is added to the argument of the H-update: 0, 1 or 2.
        input_operator (`str`): g, what the L-update receives of the input x: "identity" x, "negate" -x, "linear" W x,
            "tanh" tanh(W x), or "hadamard" (z_H + z_L) * x.
        level_token (`str`): a learned token that tells f which update it computes: "none"; "add" to every position;
            "prepend_strip" as an extra position inside f only; "prepend_keep" as an extra position of the states.
        shared_network (`bool`): one network f for both updates (AIR, TRM) or one each (HRM).
        mixer (`str`): how positions exchange information: "attention" or "mlp" (a SwiGLU over positions, TRM).
        gradient (`str`): the updates of a segment that keep a graph: "last_step" (the last L- and the last H-update;
            HRM, AIR) or "last_cycle" (the whole last cycle; TRM).
        halting (`str`): "q_learning" (halt when q_halt > q_continue; HRM, AIR) or "halt_only" (q_halt > 0; TRM).
        loss_function (`str`): cross entropy of the symbols over "stablemax" or "softmax" probabilities.
        position_embedding (`str`): "rotary", "learned" or "none".
        rope_theta (`float`): base of the rotary frequencies.
        rms_norm_eps (`float`): epsilon of the weightless RMS norm.
        num_puzzle_ids (`int`): rows of the prefix table; 1 when puzzles carry no identity.
        prefix_len (`int`): prefix positions P; 0 for no prefix.
        prefix_dim (`int`, *optional*): E, numbers stored per puzzle id and zero-padded to P * D; `hidden_size` if None.
        puzzle (`str`, *optional*): what the boards are, for tools that read and check them, e.g. "sudoku-9x9",
            "maze-30x30".

    Raises:
        huggingface_hub.errors.StrictDataclassError: a field has the wrong type or fields contradict one another; the
            message names the values.
    """

    model_type = "air"
    keys_to_ignore_at_inference = ["state"]

    vocab_size: int = 11
    seq_len: int = 81
    hidden_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    expansion: float | int = 4.0
    h_cycles: int = 2
    l_cycles: int = 2
    max_segments: int = 16
    l_injections: int = 1
    h_injections: int = 0
    input_operator: Literal["identity", "negate", "linear", "tanh", "hadamard"] = "identity"
    level_token: Literal["none", "add", "prepend_strip", "prepend_keep"] = "none"
    shared_network: bool = True
    mixer: Literal["attention", "mlp"] = "attention"
    gradient: Literal["last_step", "last_cycle"] = "last_step"
    halting: Literal["q_learning", "halt_only"] = "q_learning"
    loss_function: Literal["stablemax", "softmax"] = "stablemax"
    position_embedding: Literal["rotary", "learned", "none"] = "rotary"
    rope_theta: float | int = 10000.0
    rms_norm_eps: float = 1e-5
    num_puzzle_ids: int = 1
    prefix_len: int = 1
    prefix_dim: int | None = None
    puzzle: str | None = None

    def __post_init__(self, **kwargs):
        if "num_labels" in kwargs:  # transformers would make a name for every one of them
            raise ValueError(f"num_labels is {kwargs['num_labels']}; a puzzle solver has no labels.")
        if self.prefix_dim is None:
            self.prefix_dim = self.hidden_size if self.prefix_len > 0 else 0
        super().__post_init__(**kwargs)

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward SwiGLU over features."""
        return _swiglu_size(self.hidden_size, self.expansion)

    @property
    def num_positions(self) -> int:
        """Positions of the states: prefix, cells, and the level token where the states keep it."""
        return self.prefix_len + self.seq_len + (self.level_token == "prepend_keep")

    @property
    def num_network_positions(self) -> int:
        """Positions the network f sees: those of the states, and the level token where only f sees it."""
        return self.num_positions + (self.level_token == "prepend_strip")

    @property
    def position_intermediate_size(self) -> int:
        """Width of the SwiGLU over positions (`mixer="mlp"`)."""
        return _swiglu_size(self.num_network_positions, self.expansion)

    @property
    def num_weights(self) -> int:
        """Parameters of the model, counted from the fields alone."""
        width, feed_forward = self.hidden_size, 3 * self.hidden_size * self.intermediate_size
        if self.mixer == "attention":
            mixer = 4 * width**2
        else:
            mixer = 3 * self.num_network_positions * self.position_intermediate_size
        networks = (1 if self.shared_network else 2) * self.num_hidden_layers * (mixer + feed_forward)
        tables = 2 * self.vocab_size * width + self.num_puzzle_ids * self.prefix_dim
        positions = (self.prefix_len + self.seq_len) * width if self.position_embedding == "learned" else 0
        operator = width**2 if self.input_operator in ("linear", "tanh") else 0
        level_tokens = 2 * width if self.level_token != "none" else 0
        return networks + tables + positions + operator + level_tokens + 2 * width + 2

    def validate_architecture(self):
        """Checks across fields, run by `@strict` at construction and on save."""
        for name in ("vocab_size", "seq_len", "hidden_size", "num_hidden_layers", "num_attention_heads", "h_cycles",
                     "l_cycles", "max_segments", "num_puzzle_ids"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        # A config comes from anywhere: what is too large is refused before anything of that size is made.
        for name, largest in _LARGEST.items():
            if getattr(self, name) > largest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at most {largest}.")
        for name in ("l_injections", "h_injections"):
            if getattr(self, name) not in (0, 1, 2):
                raise ValueError(f"{name} is {getattr(self, name)}; the input enters an update 0, 1 or 2 times.")
        if self.l_injections == self.h_injections == 0:
            raise ValueError("l_injections and h_injections are both 0; the model would never see the question.")
        if self.mixer == "attention" and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) does not divide hidden_size ({self.hidden_size})."
            )
        if self.position_embedding == "rotary":
            if self.mixer == "mlp":
                raise ValueError(
                    'position_embedding="rotary" turns the queries and keys of attention, but mixer is "mlp"; '
                    'use "learned" or "none".'
                )
            if (self.hidden_size // self.num_attention_heads) % 2:
                raise ValueError(
                    f'position_embedding="rotary" needs heads of even size; hidden_size {self.hidden_size} over '
                    f"num_attention_heads {self.num_attention_heads} is {self.hidden_size // self.num_attention_heads}."
                )
        if self.input_operator != "identity" and self.l_injections == 0:
            raise ValueError(
                f'input_operator is "{self.input_operator}" but l_injections is 0, so it would never be applied.'
            )
        if self.input_operator == "hadamard" and self.l_injections != 1:
            raise ValueError(f'input_operator "hadamard" multiplies once; l_injections is {self.l_injections}, not 1.')
        if not (self.expansion > 0 and self.rms_norm_eps > 0 and self.rope_theta > 0):  # NaN fails, too
            raise ValueError(
                f"expansion ({self.expansion}), rms_norm_eps ({self.rms_norm_eps}) and rope_theta "
                f"({self.rope_theta}) must be positive."
            )
        if self.prefix_len < 0 or not 0 <= self.prefix_dim <= self.prefix_len * self.hidden_size:
            raise ValueError(
                f"prefix_dim ({self.prefix_dim}) must lie between 0 and prefix_len * hidden_size "
                f"({self.prefix_len} * {self.hidden_size} = {self.prefix_len * self.hidden_size})."
            )
        if self.num_weights > _MOST_WEIGHTS:
            raise ValueError(f"the fields ask for {self.num_weights:,} parameters; the limit is {_MOST_WEIGHTS:,}.")
        if self.puzzle is not None:
            board = re.fullmatch(r"[a-z]+-(\d{1,5})x(\d{1,5})", self.puzzle)
            if not board or int(board[1]) * int(board[2]) != self.seq_len:
                raise ValueError(
                    f"puzzle {self.puzzle!r} is no board of seq_len {self.seq_len} cells; expected e.g. sudoku-9x9 with 81."
                )
        if (self.prefix_dim == 0) != (self.prefix_len == 0):
            raise ValueError(
                f"prefix_dim ({self.prefix_dim}) and prefix_len ({self.prefix_len}) must both be 0 or not."
            )

    def estimate_flops(self, batch_size: int = 1, with_gradient: bool = False) -> int:
        """Matmul FLOPs of one segment (2 per multiply-add; norms, softmax and additions are not counted).

        Args:
            batch_size (`int`): boards in the batch, B.
            with_gradient (`bool`): count a training step instead: the backward of the updates that keep a graph (twice
                their forward), and the extra segment that Q-learning runs for its target.

        Returns:
            `int`: floating-point operations.
        """
        tokens, width = self.num_network_positions, self.hidden_size
        if self.mixer == "attention":
            mixing = 2 * tokens * width * 4 * width + 2 * 2 * tokens**2 * width
        else:
            mixing = 2 * width * tokens * 3 * self.position_intermediate_size
        update = self.num_hidden_layers * (mixing + 2 * tokens * width * 3 * self.intermediate_size)
        operator = 2 * self.num_positions * width**2 if self.input_operator in ("linear", "tanh") else 0
        lm_head, q_head = 2 * self.seq_len * width * self.vocab_size, 2 * width * 2
        recursion = self.h_cycles * (self.l_cycles + 1) * update
        forward = operator + recursion + lm_head + q_head
        if not with_gradient:
            return batch_size * forward
        graph_updates = 2 if self.gradient == "last_step" else self.l_cycles + 1
        backward = 2 * (operator + graph_updates * update + lm_head + q_head)
        q_target = recursion + q_head if self.halting == "q_learning" and self.max_segments > 1 else 0
        return batch_size * (forward + backward + q_target)


__all__ = ["AIRConfig"]
