"""Recurrent puzzle solvers AIR (arXiv 2605.17811), HRM (arXiv 2506.21734) and TRM (arXiv 2510.04871) as one model.

A puzzle is solved in *segments*. A segment refines two latent states, z_H and z_L, by H-updates and L-updates of one
shared network f (HRM: two networks), and reads an answer and a wish to halt from z_H:

    model = AIRForPuzzleSolving(AIRConfig(vocab_size=11, seq_len=81))
    out = model(input_ids=ids)                      # one segment
    out = model(input_ids=ids, state=out.state)     # the next
    answer = model.solve(input_ids=ids).sequences   # to the end

Axis letters: B puzzles, S cells, P prefix positions, T all positions of the states, D hidden size, V symbols.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_air import AIRConfig

IGNORE_LABEL = -100
# Standard deviation of a unit normal truncated at ±2, the correction of the JAX initialisers.
_TRUNCATED_STD = 0.87962566103423978


@dataclass
class AIRState:
    """The recurrent state between two segments.

    Args:
        z_h (`torch.FloatTensor` of shape `(B, T, D)`): the proposal.
        z_l (`torch.FloatTensor` of shape `(B, T, D)`): the scratchpad.
        num_segments (`torch.LongTensor` of shape `(B,)`): segments run since each slot was reset.
    """

    z_h: torch.FloatTensor
    z_l: torch.FloatTensor
    num_segments: torch.LongTensor

    def detach(self) -> "AIRState":
        return AIRState(self.z_h.detach(), self.z_l.detach(), self.num_segments)

    def where(self, choose: torch.BoolTensor, other: "AIRState") -> "AIRState":
        """This state in the slots where `choose` (B,) is true, `other` elsewhere."""
        slots = choose.view(-1, 1, 1)
        return AIRState(
            torch.where(slots, self.z_h, other.z_h),
            torch.where(slots, self.z_l, other.z_l),
            torch.where(choose, self.num_segments, other.num_segments),
        )


@dataclass
class AIRInputs:
    """An encoded question, constant over a rollout.

    Args:
        x (`torch.FloatTensor` of shape `(B, T, D)`): the input encoding x̃; zero where the states keep a level token.
        l_injection (`torch.FloatTensor` of shape `(B, T, D)`, *optional*): what the L-update adds, n_L g(x̃); None when
            that is nothing or when the operator multiplies.
        h_injection (`torch.FloatTensor` of shape `(B, T, D)`, *optional*): what the H-update adds, n_H x̃.
    """

    x: torch.FloatTensor
    l_injection: torch.FloatTensor | None = None
    h_injection: torch.FloatTensor | None = None


@dataclass
class AIRLoss:
    """The parts of the training loss, each summed over the B puzzles.

    Args:
        loss (`torch.FloatTensor` of shape `()`): (lm + ½ q_halt + ½ q_continue) / B, the one with a gradient.
        lm (`torch.FloatTensor` of shape `()`): mean cross entropy of a puzzle's labelled cells, in nats.
        q_halt (`torch.FloatTensor` of shape `()`): binary cross entropy of "all labelled cells are right".
        q_continue (`torch.FloatTensor` of shape `()`): binary cross entropy against the Q-learning target, if any.
    """

    loss: torch.FloatTensor
    lm: torch.FloatTensor
    q_halt: torch.FloatTensor
    q_continue: torch.FloatTensor


@dataclass
class AIRPuzzleSolvingOutput(ModelOutput):
    """What one segment returns.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): training loss, mean over the B puzzles; with `labels`.
        logits (`torch.FloatTensor` of shape `(B, S, V)`): symbol scores of every cell.
        q_halt_logits (`torch.FloatTensor` of shape `(B,)`): score of "the answer is right, halt", float32.
        q_continue_logits (`torch.FloatTensor` of shape `(B,)`): score of "go on", float32.
        state ([`AIRState`]): the detached state after the segment.
        losses ([`AIRLoss`], *optional*): the parts of `loss`; with `labels`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    q_halt_logits: torch.FloatTensor | None = None
    q_continue_logits: torch.FloatTensor | None = None
    state: AIRState | None = None
    losses: AIRLoss | None = None


@dataclass
class AIRSolution(ModelOutput):
    """What [`AIRForPuzzleSolving.solve`] returns.

    Args:
        sequences (`torch.LongTensor` of shape `(B, S)`): the symbol ids of the answers.
        q_halt_logits (`torch.FloatTensor` of shape `(B,)`): the model's confidence in each answer (a logit).
        num_segments (`torch.LongTensor` of shape `(B,)`): segments each answer took.
    """

    sequences: torch.LongTensor | None = None
    q_halt_logits: torch.FloatTensor | None = None
    num_segments: torch.LongTensor | None = None


def rms_norm(hidden_states: torch.Tensor, eps: float) -> torch.Tensor:
    """Scales the last axis to a root mean square of 1, without a weight; computed in float32."""
    values = hidden_states.float()
    return (values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)).to(hidden_states.dtype)


def rotary_tables(
    length: int, head_dim: int, theta: float, device: torch.device
) -> tuple[torch.FloatTensor, torch.FloatTensor]:
    """Cosines and sines (length, head_dim) of rotary position embedding (RoFormer, arXiv 2104.09864), float32."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def apply_rotary(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates queries or keys (B, heads, T, head_dim) by the angle of their position."""
    first, second = states.float().chunk(2, dim=-1)
    return (states.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(states.dtype)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (B, T, heads, head_dim) and its maps (B, heads, T, T) by explicit softmax, bidirectional, unmasked."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    maps = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return torch.matmul(maps, value).transpose(1, 2), maps


class AIRAttention(nn.Module):
    """Bidirectional multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, config: AIRConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, T, D) to (B, T, D) and, where the backend gives them, the attention maps (B, heads, T, T)."""
        batch, length, width = hidden_states.shape
        qkv = self.qkv_proj(hidden_states).view(batch, length, 3, -1, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, head_dim)
        if rotary is not None:
            query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, maps = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0)
        return self.o_proj(output.reshape(batch, length, width)), maps


class AIRSwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202) over the last axis."""

    def __init__(self, size: int, intermediate_size: int):
        super().__init__()
        self.gate_up_proj = nn.Linear(size, 2 * intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class AIRAttentionMixer(nn.Module):
    """h ← rms(h + attention(h)), the norm over features."""

    def __init__(self, config: AIRConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.attention = AIRAttention(config)

    def forward(self, hidden_states: torch.Tensor, rotary) -> torch.Tensor:
        return rms_norm(hidden_states + self.attention(hidden_states, rotary)[0], self.eps)


class AIRPositionMixer(nn.Module):
    """h ← rms(h + swiglu(h)) over positions: TRM's replacement of attention; its norm, too, runs over positions."""

    def __init__(self, config: AIRConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.mlp = AIRSwiGLU(config.num_network_positions, config.position_intermediate_size)

    def forward(self, hidden_states: torch.Tensor, rotary) -> torch.Tensor:
        columns = hidden_states.transpose(1, 2)  # (B, D, T)
        return rms_norm(columns + self.mlp(columns), self.eps).transpose(1, 2)


class AIRBlock(nn.Module):
    """One layer of f: mix positions, then features, each with a residual and a norm after it."""

    def __init__(self, config: AIRConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.mixer = AIRAttentionMixer(config) if config.mixer == "attention" else AIRPositionMixer(config)
        self.mlp = AIRSwiGLU(config.hidden_size, config.intermediate_size)

    def forward(self, hidden_states: torch.Tensor, rotary) -> torch.Tensor:
        hidden_states = self.mixer(hidden_states, rotary)
        return rms_norm(hidden_states + self.mlp(hidden_states), self.eps)


class AIRNetwork(nn.Module):
    """The network f of an update: a stack of blocks, (B, T, D) to (B, T, D)."""

    def __init__(self, config: AIRConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(AIRBlock(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rotary = None
        if self.config.position_embedding == "rotary":
            head_dim = self.config.hidden_size // self.config.num_attention_heads
            rotary = rotary_tables(hidden_states.shape[1], head_dim, self.config.rope_theta, hidden_states.device)
        for layer in self.layers:
            hidden_states = layer(hidden_states, rotary)
        return hidden_states


class AIRPrefixTable(nn.Embedding):
    """Numbers of each puzzle id, (ids, E); a class of its own, since it starts at zero and has its own optimiser."""


class AIRHaltingHead(nn.Linear):
    """(q_halt, q_continue) of the first position of z_H; a class of its own, since it starts at 0·z − 5."""


class AIRPreTrainedModel(PreTrainedModel):
    config_class = AIRConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["AIRBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Truncated normal of standard deviation 1/√fan_in; embeddings 1/√D; q_head 0 with bias −5; tokens 0."""
        if isinstance(module, AIRHaltingHead):
            # Halting starts unlikely and independent of the state, so the first segments are all spent on the answer.
            init.zeros_(module.weight)
            init.constant_(module.bias, -5.0)
        elif isinstance(module, AIRPrefixTable):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            _truncated_normal(module.weight, module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            _truncated_normal(module.weight, module.embedding_dim**-0.5)
        elif isinstance(module, AIRModel):
            for z in (module.z_h_init, module.z_l_init):
                _truncated_normal(z, 1.0)
            for token in (module.level_token_h, module.level_token_l):
                if token is not None:
                    init.zeros_(token)


def _truncated_normal(tensor: torch.Tensor, std: float):
    """Normal truncated at ±2σ, with σ widened so that `std` is the standard deviation after truncation."""
    std = std / _TRUNCATED_STD
    init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std)


class AIRModel(AIRPreTrainedModel):
    """The recursion without heads: encoding, the two updates, and the segment that alternates them."""

    def __init__(self, config: AIRConfig):
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.prefix = AIRPrefixTable(config.num_puzzle_ids, config.prefix_dim) if config.prefix_len else None
        learned = config.position_embedding == "learned"
        self.embed_positions = nn.Embedding(config.prefix_len + config.seq_len, width) if learned else None
        projected = config.input_operator in ("linear", "tanh")
        self.input_proj = nn.Linear(width, width, bias=False) if projected else None
        has_token = config.level_token != "none"
        self.level_token_h = nn.Parameter(torch.zeros(width)) if has_token else None
        self.level_token_l = nn.Parameter(torch.zeros(width)) if has_token else None
        levels = ("shared",) if config.shared_network else ("h", "l")
        self.networks = nn.ModuleDict({level: AIRNetwork(config) for level in levels})
        self.register_buffer("z_h_init", torch.zeros(width))
        self.register_buffer("z_l_init", torch.zeros(width))
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding):
        self.embed_tokens = value

    def _compute_dtype(self) -> torch.dtype:
        """The dtype of the states: that of the weights, or of autocast where it is on."""
        device_type = self.embed_tokens.weight.device.type
        if torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return self.embed_tokens.weight.dtype

    def encode(self, input_ids: torch.LongTensor, puzzle_ids: torch.LongTensor | None = None) -> AIRInputs:
        """Encodes questions: x̃ = √D · (prefix, embedded cells), and what each update receives of it.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): symbols of the question.
            puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table; 0 if not given.

        Raises:
            ValueError: the boards do not have the model's number of cells, or hold an unknown symbol.
        """
        config = self.config
        if input_ids.ndim != 2 or input_ids.shape[1] != config.seq_len:
            raise ValueError(
                f"input_ids has shape {tuple(input_ids.shape)}; this model takes (puzzles, {config.seq_len})"
                f"{f' boards of {config.puzzle}' if config.puzzle else ''}."
            )
        if input_ids.device.type == "cpu":  # elsewhere looking at the values would wait for the device; see `solve`
            self.check_symbols(input_ids)
        x = self.embed_tokens(input_ids)
        if self.prefix is not None:
            if puzzle_ids is None:
                puzzle_ids = input_ids.new_zeros(len(input_ids))
            prefix = F.pad(self.prefix(puzzle_ids), (0, config.prefix_len * config.hidden_size - config.prefix_dim))
            x = torch.cat((prefix.view(-1, config.prefix_len, config.hidden_size), x), dim=1)
        if self.embed_positions is not None:
            x = (x + self.embed_positions.weight) * 0.5**0.5
        x = (x * config.hidden_size**0.5).to(self._compute_dtype())
        if config.level_token == "prepend_keep":
            x = F.pad(x, (0, 0, 1, 0))  # the token's own position gets no input
        l_injection = h_injection = None
        if config.l_injections and config.input_operator != "hadamard":
            l_injection = config.l_injections * self._operator(x)
        if config.h_injections:
            h_injection = config.h_injections * x
        return AIRInputs(x, l_injection, h_injection)

    def check_symbols(self, input_ids: torch.LongTensor) -> None:
        """Checks that every id is a row of the embedding table.

        Raises:
            ValueError: naming the first id that is not, as from a tokenizer of another puzzle.
        """
        unknown = (input_ids < 0) | (input_ids >= self.config.vocab_size)
        if unknown.any():
            raise ValueError(
                f"input_ids holds the symbol {int(input_ids[unknown][0])}; this model knows 0 to "
                f"{self.config.vocab_size - 1}{f' ({self.config.puzzle})' if self.config.puzzle else ''}."
            )

    def _operator(self, x: torch.Tensor) -> torch.Tensor:
        """g(x̃) of the additive operators, (B, T, D)."""
        operator = self.config.input_operator
        if operator == "identity":
            return x
        if operator == "negate":
            return -x
        projected = self.input_proj(x)
        return projected.tanh() if operator == "tanh" else projected

    def initial_state(self, batch_size: int) -> AIRState:
        """The state every puzzle starts from: two fixed random vectors at every position, no segment run."""
        states = []
        for vector, token in ((self.z_h_init, self.level_token_h), (self.z_l_init, self.level_token_l)):
            z = vector.to(self._compute_dtype()).expand(batch_size, self.config.num_positions, -1)
            if self.config.level_token == "prepend_keep":
                z = torch.cat((token.to(z.dtype).expand(batch_size, 1, -1), z[:, 1:]), dim=1)
            states.append(z)
        return AIRState(*states, torch.zeros(batch_size, dtype=torch.long, device=self.z_h_init.device))

    def l_update(self, z_l: torch.Tensor, z_h: torch.Tensor, inputs: AIRInputs) -> torch.Tensor:
        """z_L ← f(z_L + z_H + n_L g(x̃)); Hadamard: z_L ← f(z_L + (z_H + z_L) ⊙ x̃). All (B, T, D)."""
        if self.config.input_operator == "hadamard":
            return self._update("l", z_l + (z_h + z_l) * inputs.x)
        return self._update("l", _add(z_l, z_h, inputs.l_injection))

    def h_update(self, z_h: torch.Tensor, z_l: torch.Tensor, inputs: AIRInputs) -> torch.Tensor:
        """z_H ← f(z_H + z_L + n_H x̃). All (B, T, D)."""
        return self._update("h", _add(z_h, z_l, inputs.h_injection))

    def _update(self, level: str, argument: torch.Tensor) -> torch.Tensor:
        """Applies the network of "l" or "h" to an update's argument (B, T, D), with that level's token."""
        network = self.networks["shared" if self.config.shared_network else level]
        if self.config.level_token in ("none", "prepend_keep"):
            return network(argument)
        token = (self.level_token_h if level == "h" else self.level_token_l).to(argument.dtype)
        if self.config.level_token == "add":
            return network(argument + token)
        token = token.expand(len(argument), 1, -1)
        return network(torch.cat((token, argument), dim=1))[:, 1:]

    def segment(self, inputs: AIRInputs, state: AIRState) -> AIRState:
        """Runs one segment: h_cycles cycles of l_cycles L-updates and one H-update.

        Only the updates named by `config.gradient` keep a graph, and only while gradients are enabled.
        """
        config = self.config
        if state.z_h.shape != inputs.x.shape:
            raise ValueError(
                f"the state has shape {tuple(state.z_h.shape)} (puzzles, positions, width); "
                f"these questions need {tuple(inputs.x.shape)}"
            )
        z_h, z_l = state.z_h.to(inputs.x.dtype), state.z_l.to(inputs.x.dtype)
        keep_graph = torch.is_grad_enabled()
        for h_step in range(config.h_cycles):
            last_cycle = h_step == config.h_cycles - 1
            for l_step in range(config.l_cycles):
                last_step = last_cycle and l_step == config.l_cycles - 1
                with torch.set_grad_enabled(
                    keep_graph and (last_step or (last_cycle and config.gradient == "last_cycle"))
                ):
                    z_l = self.l_update(z_l, z_h, inputs)
            with torch.set_grad_enabled(keep_graph and last_cycle):
                z_h = self.h_update(z_h, z_l, inputs)
        return AIRState(z_h, z_l, state.num_segments + 1)

    def forward(
        self,
        input_ids: torch.LongTensor,
        puzzle_ids: torch.LongTensor | None = None,
        state: AIRState | None = None,
    ) -> AIRState:
        """One segment from `state` (a fresh one if None); the result still holds its graph."""
        inputs = self.encode(input_ids, puzzle_ids)
        return self.segment(inputs, self.initial_state(len(input_ids)) if state is None else state)


def _add(own: torch.Tensor, other: torch.Tensor, injection: torch.Tensor | None) -> torch.Tensor:
    return own + other if injection is None else own + (other + injection)


class AIRForPuzzleSolving(AIRPreTrainedModel):
    """The recursion with its two heads: an answer for every cell, and whether to halt."""

    def __init__(self, config: AIRConfig):
        super().__init__(config)
        self.model = AIRModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.q_head = AIRHaltingHead(config.hidden_size, 2)
        self.post_init()

    def initial_state(self, batch_size: int) -> AIRState:
        return self.model.initial_state(batch_size)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Symbol scores (B, S, V) of a state (B, T, D); meant for z_H, and for looking into z_L."""
        return self.lm_head(z[:, -self.config.seq_len :])

    def halting_logits(self, z_h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(q_halt, q_continue), each (B,) in float32, read at the first position of z_H."""
        q = self.q_head(z_h[:, 0]).float()
        return q[:, 0], q[:, 1]

    def forward(
        self,
        input_ids: torch.LongTensor,
        puzzle_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        state: AIRState | None = None,
        return_dict: bool | None = None,
    ) -> AIRPuzzleSolvingOutput:
        """Runs one segment.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): symbols of the question.
            puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table; 0 if not given.
            labels (`torch.LongTensor` of shape `(B, S)`, *optional*): symbols of the answer, -100 where there is none.
                In training mode with `halting="q_learning"` the loss includes the Q-learning term, whose target takes
                one more segment without gradient.
            state ([`AIRState`], *optional*): where the previous segment ended; a fresh state if None.

        Raises:
            ValueError: boards of another size than the model's, or a state of another number of puzzles.
        """
        inputs = self.model.encode(input_ids, puzzle_ids)
        state = self.model.segment(inputs, self.initial_state(len(input_ids)) if state is None else state)
        q_halt_logits, q_continue_logits = self.halting_logits(state.z_h)
        output = AIRPuzzleSolvingOutput(
            logits=self.decode(state.z_h),
            q_halt_logits=q_halt_logits,
            q_continue_logits=q_continue_logits,
            state=state.detach(),
        )
        if labels is not None:
            learn_q = self.training and self.config.halting == "q_learning" and self.config.max_segments > 1
            q_target = self.q_continue_target(inputs, output.state) if learn_q else None
            output.losses = self.compute_loss(output, labels, q_target)
            output.loss = output.losses.loss
        return output if return_dict in (None, True) else output.to_tuple()

    @torch.no_grad()
    def q_continue_target(self, inputs: AIRInputs, state: AIRState) -> torch.FloatTensor:
        """Q-learning target of q_continue (B,): what the next segment's halting scores promise (HRM, section 2).

        σ(q_halt′) where the puzzle has no segment left, σ(max(q_halt′, q_continue′)) elsewhere.
        """
        q_halt, q_continue = self.halting_logits(self.model.segment(inputs, state).z_h)
        last = state.num_segments >= self.config.max_segments
        return torch.where(last, q_halt, torch.maximum(q_halt, q_continue)).sigmoid()

    def compute_loss(
        self, output: AIRPuzzleSolvingOutput, labels: torch.LongTensor, q_target: torch.FloatTensor | None = None
    ) -> AIRLoss:
        """Loss of a segment: cells + ½ halting + ½ continuing, summed over puzzles and divided by B.

        Args:
            output ([`AIRPuzzleSolvingOutput`]): logits of the segment.
            labels (`torch.LongTensor` of shape `(B, S)`): answers; -100 where a cell has none. A board without any
                label adds nothing for its cells and counts as right.
            q_target (`torch.FloatTensor` of shape `(B,)`, *optional*): see [`q_continue_target`].
        """
        labelled = labels != IGNORE_LABEL
        counts = labelled.sum(-1)
        targets = labels.masked_fill(~labelled, 0)
        log_probs = _log_stablemax(output.logits) if self.config.loss_function == "stablemax" else (
            output.logits.float().log_softmax(-1)
        )  # fmt: skip
        cell_losses = -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).masked_fill(~labelled, 0.0)
        lm = (cell_losses.sum(-1) / counts.clamp(min=1)).sum()
        right = (labelled & (output.logits.argmax(-1) == labels)).sum(-1) == counts
        q_halt = F.binary_cross_entropy_with_logits(output.q_halt_logits, right.float(), reduction="sum")
        q_continue = q_halt.new_zeros(())
        if q_target is not None:
            q_continue = F.binary_cross_entropy_with_logits(output.q_continue_logits, q_target, reduction="sum")
        return AIRLoss((lm + 0.5 * (q_halt + q_continue)) / len(labels), lm, q_halt, q_continue)

    def wants_to_halt(self, output: AIRPuzzleSolvingOutput, q_halt_threshold: float = 0.0) -> torch.BoolTensor:
        """The halting rule (B,): q_halt − q_continue (Q-learning) or q_halt (halt-only) exceeds the threshold."""
        margin = output.q_halt_logits
        if self.config.halting == "q_learning":
            margin = margin - output.q_continue_logits
        return margin > q_halt_threshold

    @torch.no_grad()
    def solve(
        self,
        input_ids: torch.LongTensor,
        puzzle_ids: torch.LongTensor | None = None,
        max_segments: int | None = None,
        early_stop: bool = False,
        q_halt_threshold: float = 0.0,
    ) -> AIRSolution:
        """Solves puzzles from fresh states.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): symbols of the questions.
            puzzle_ids (`torch.LongTensor` of shape `(B,)`, *optional*): rows of the prefix table; 0 if not given.
            max_segments (`int`, *optional*): segments to run; `config.max_segments` if None.
            early_stop (`bool`): a puzzle keeps the answer of the first segment whose halting score exceeds
                `q_halt_threshold`, whatever else is in its batch; the loop ends when every puzzle has one.
            q_halt_threshold (`float`): logits; 0 is the rule of training. Higher is slower and safer.

        Raises:
            ValueError: `max_segments` below 1, or boards of another size or with other symbols than the model's.
        """
        max_segments = self.config.max_segments if max_segments is None else max_segments
        if max_segments < 1:
            raise ValueError(f"max_segments is {max_segments}; it must be at least 1.")
        self.model.check_symbols(input_ids)
        state = sequences = q_halt_logits = num_segments = None
        for _ in range(max_segments):
            output = self(input_ids=input_ids, puzzle_ids=puzzle_ids, state=state)
            state = output.state
            answer = (output.logits.argmax(-1), output.q_halt_logits, state.num_segments)
            if sequences is None:
                sequences, q_halt_logits, num_segments = answer
                halted = torch.zeros_like(num_segments, dtype=torch.bool)
            else:
                sequences = torch.where(halted.unsqueeze(-1), sequences, answer[0])
                q_halt_logits = torch.where(halted, q_halt_logits, answer[1])
                num_segments = torch.where(halted, num_segments, answer[2])
            if early_stop:
                halted = halted | self.wants_to_halt(output, q_halt_threshold)
                if halted.all():
                    break
        return AIRSolution(sequences, q_halt_logits, num_segments)


def _log_stablemax(logits: torch.Tensor) -> torch.Tensor:
    """Logarithm of stablemax (arXiv 2501.04697): s(x) / Σ s(x), s(x) = x + 1 for x ≥ 0 and 1 / (1 − x) below.

    In float64, as the published codes compute it; in float32 on devices that have no float64.
    """
    logits = logits.float() if logits.device.type == "mps" else logits.double()
    scores = torch.where(logits < 0, 1 / (1 - logits.clamp(max=0)), logits + 1)
    return scores.log() - scores.sum(-1, keepdim=True).log()


__all__ = [
    "AIRForPuzzleSolving",
    "AIRInputs",
    "AIRLoss",
    "AIRModel",
    "AIRPreTrainedModel",
    "AIRPuzzleSolvingOutput",
    "AIRSolution",
    "AIRState",
]
