"""The variants of the AIR paper (arXiv 2605.17811), HRM and TRM, as configuration fields by name."""

from air_hf.modeling import AIRConfig

_TRM = {
    "num_hidden_layers": 2,
    "h_cycles": 3,
    "l_cycles": 6,
    "gradient": "last_cycle",
    "halting": "halt_only",
    "prefix_len": 16,
}


def _injections(n_l: int, n_h: int) -> dict:
    return {"l_injections": n_l, "h_injections": n_h}


# Injections carry the paper's names; its operators and level tokens are named after the variant they modify.
VARIANTS: dict[str, dict] = {
    "L_Hx": _injections(0, 1),
    "Lx_H": _injections(1, 0),
    "L_H2x": _injections(0, 2),
    "L2x_H": _injections(2, 0),
    "Lx_H2x": _injections(1, 2),
    "L2x_Hx": _injections(2, 1),
    "Lx_Hx": _injections(1, 1),
    "L2x_H2x": _injections(2, 2),
    "Lx_H-negate": _injections(1, 0) | {"input_operator": "negate"},
    "Lx_H-linear": _injections(1, 0) | {"input_operator": "linear"},
    "Lx_H-tanh": _injections(1, 0) | {"input_operator": "tanh"},
    "Lx_H-hadamard": _injections(1, 0) | {"input_operator": "hadamard"},
    "L2x_H2x-add": _injections(2, 2) | {"level_token": "add"},
    "L2x_H2x-prepend-strip": _injections(2, 2) | {"level_token": "prepend_strip"},
    "L2x_H2x-prepend-keep": _injections(2, 2) | {"level_token": "prepend_keep"},
    "hrm": {"shared_network": False},
    "trm-att": _TRM,
    "trm-mlp": _TRM | {"mixer": "mlp", "position_embedding": "none"},
}

# What the published codes call the same variants.
REFERENCE_NAMES: dict[str, str] = {
    "minus_x": "Lx_H-negate",
    "gx_linear": "Lx_H-linear",
    "gx_non_linear": "Lx_H-tanh",
    "had_prod": "Lx_H-hadamard",
    "L2x_H2x_input_token_addition": "L2x_H2x-add",
    "L2x_H2x_input_token_prepend": "L2x_H2x-prepend-strip",
    "L2x_H2x_input_token_prepend_no_strip": "L2x_H2x-prepend-keep",
    "trm_att": "trm-att",
    "trm_mlp": "trm-mlp",
}

CONFIG_FIELDS = tuple(AIRConfig.__annotations__)


def variant_config(name: str, **overrides) -> AIRConfig:
    """Configuration of a named variant at the paper's size.

    Args:
        name (`str`): a key of `VARIANTS`, or a published code's name for it (`REFERENCE_NAMES`).
        overrides: any field of [`AIRConfig`]; `vocab_size` and `seq_len` depend on the puzzle and belong here.

    Raises:
        ValueError: an unknown variant or field; the message lists the known ones.
    """
    key = REFERENCE_NAMES.get(name, name)
    if key not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}; known variants: {', '.join(VARIANTS)}")
    unknown = sorted(set(overrides) - set(CONFIG_FIELDS))
    if unknown:
        raise ValueError(f"unknown config fields {', '.join(unknown)}; known fields: {', '.join(CONFIG_FIELDS)}")
    return AIRConfig(**(VARIANTS[key] | overrides))
