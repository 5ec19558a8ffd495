"""Reads weights of the published AIR, HRM and TRM codes into our model."""

import re

import torch

from air_hf.modeling import AIRForPuzzleSolving
from air_hf.variants import variant_config

# The published codes' configuration names and ours. Names mapped to None say how to train, not what the model is.
_CONFIG_FIELDS = {
    "vocab_size": "vocab_size",
    "seq_len": "seq_len",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "expansion": "expansion",
    "H_cycles": "h_cycles",
    "L_cycles": "l_cycles",
    "halt_max_steps": "max_segments",
    "num_puzzle_identifiers": "num_puzzle_ids",
    "puzzle_emb_ndim": "prefix_dim",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "batch_size": None,
    "forward_dtype": None,
    "halt_exploration_prob": None,
    "H_layers": None,  # the number of layers is read off the weights, and compared
    "L_layers": None,
    "puzzle_emb_len": None,  # handled with puzzle_emb_ndim
    "pos_encodings": None,  # handled below
    "mlp_t": None,
    "no_ACT_continue": None,
}

_POSITIONS = {"rope": "rotary", "learned": "learned", "none": "none"}

_MODULES = [
    (r"embed_tokens\.embedding_weight", "model.embed_tokens.weight"),
    (r"embed_pos\.embedding_weight", "model.embed_positions.weight"),
    (r"puzzle_emb\.weights", "model.prefix.weight"),
    (r"g_input\.weight", "model.input_proj.weight"),
    (r"([HL])_init", lambda m: f"model.z_{m[1].lower()}_init"),
    (r"input_token_([HL])", lambda m: f"model.level_token_{m[1].lower()}"),
    (r"(f|H|L)_level\.layers\.(\d+)\.self_attn\.(.+)", lambda m: f"{_network(m)}.mixer.attention.{m[3]}"),
    (r"(f|H|L)_level\.layers\.(\d+)\.mlp_t\.(.+)", lambda m: f"{_network(m)}.mixer.mlp.{m[3]}"),
    (r"(f|H|L)_level\.layers\.(\d+)\.mlp\.(.+)", lambda m: f"{_network(m)}.mlp.{m[3]}"),
    (r"((?:lm_head|q_head)\..+)", lambda m: m[1]),
]


def _network(match: re.Match) -> str:
    """TRM calls its only network L_level; `rename_weights` turns H_level and L_level of HRM apart before."""
    return f"model.networks.{ {'f': 'shared', 'H': 'h', 'L': 'l'}[match[1]] }.layers.{match[2]}"


def rename_weights(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under our names.

    Accepts the prefixes that `torch.compile` and the loss head leave in front of `inner.`.

    Raises:
        ValueError: a name that none of the published codes uses.
    """
    inner = {key.split("inner.", 1)[-1]: tensor for key, tensor in state_dict.items()}
    two_networks = any(key.startswith("H_level.") for key in inner)
    renamed = {}
    for key, tensor in inner.items():
        source = key if two_networks else re.sub(r"^L_level\.", "f_level.", key)
        for pattern, target in _MODULES:
            match = re.fullmatch(pattern, source)
            if match:
                name = target if isinstance(target, str) else target(match)
                renamed[name] = tensor.flatten() if "level_token" in name else tensor
                break
        else:
            raise ValueError(f"weight {key!r} is not one of the published AIR, HRM or TRM codes'")
    return renamed


def _num_layers(names) -> int:
    """Layers of every network; HRM's two must have the same number."""
    layers: dict[str, int] = {}
    for name in names:
        match = re.match(r"model\.networks\.(\w+)\.layers\.(\d+)\.", name)
        if match:
            layers[match[1]] = max(layers.get(match[1], 0), int(match[2]) + 1)
    if len(set(layers.values())) != 1:
        raise ValueError(f"the networks must exist and have the same number of layers; found {layers}")
    return next(iter(layers.values()))


def load_reference(state_dict: dict[str, torch.Tensor], config_dict: dict, variant: str) -> AIRForPuzzleSolving:
    """Builds our model with the weights of a published checkpoint.

    Args:
        state_dict (`dict[str, torch.Tensor]`): weights under the published names, e.g. `inner.lm_head.weight`.
        config_dict (`dict`): the published configuration, e.g. `{"hidden_size": 512, "num_heads": 8, ...}`.
        variant (`str`): a published code's variant name (`gx_linear`, `trm_mlp`, ...) or ours.

    Returns:
        [`AIRForPuzzleSolving`] in evaluation mode.

    Raises:
        ValueError: an unknown variant, configuration name or weight name, or weights that do not fit the
            configuration.
    """
    missing = sorted({"vocab_size", "seq_len", "hidden_size", "num_heads"} - set(config_dict))
    if missing:
        raise ValueError(f"reference config names {missing} are missing")
    unknown = sorted(set(config_dict) - set(_CONFIG_FIELDS))
    if unknown:
        raise ValueError(f"unknown reference config names {unknown}; known: {sorted(_CONFIG_FIELDS)}")
    weights = rename_weights(state_dict)
    fields = {_CONFIG_FIELDS[name]: value for name, value in config_dict.items() if _CONFIG_FIELDS[name]}
    fields["num_hidden_layers"] = _num_layers(weights)
    layers = {name: config_dict[name] for name in ("H_layers", "L_layers") if name in config_dict}
    if layers and fields["num_hidden_layers"] not in layers.values():  # a shared network has one of the two
        raise ValueError(f"the weights have {fields['num_hidden_layers']} layers; the config says {layers}")
    prefix_dim = fields.get("prefix_dim", 0)
    # As in the published codes: enough positions for E numbers, unless TRM's puzzle_emb_len asks for more.
    fields["prefix_len"] = config_dict.get("puzzle_emb_len") or -(-prefix_dim // config_dict["hidden_size"])
    if prefix_dim == 0:
        fields["prefix_len"] = 0
    positions = config_dict.get("pos_encodings", "rope")
    if positions not in _POSITIONS:
        raise ValueError(f"pos_encodings is {positions!r}; expected one of {sorted(_POSITIONS)}")
    # The MLP mixer of the published TRM does not look at rotary tables, whatever its configuration says.
    ignored = config_dict.get("mlp_t") and positions == "rope"
    fields["position_embedding"] = "none" if ignored else _POSITIONS[positions]
    if "no_ACT_continue" in config_dict:
        fields["halting"] = "halt_only" if config_dict["no_ACT_continue"] else "q_learning"
    if "mlp_t" in config_dict:
        fields["mixer"] = "mlp" if config_dict["mlp_t"] else "attention"
    model = AIRForPuzzleSolving(variant_config(variant, **fields))
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        ours = tuple(expected[name].shape) if name in expected else None
        theirs = tuple(weights[name].shape) if name in weights else None
        if ours != theirs:
            raise ValueError(
                f"variant {variant!r}: weight {name} has shape {theirs} in the checkpoint, {ours} in our model"
            )
    model.load_state_dict(weights)
    return model.eval()
