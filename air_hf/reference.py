"""Reads weights of the published AIR, HRM and TRM codes into our model, and turns their files into checkpoints of ours.

Their checkpoints are pickles. PyTorch's restricted unpickler reads tensors from them and nothing else; no code runs.
"""

import json
import os
import re
import warnings
from pathlib import Path

import torch
import yaml
from transformers.initialization import no_init_weights

from air_hf.files import atomic_folder, sha256, write_text
from air_hf.hub import TRAINING_FACTS, CheckpointError
from air_hf.hub.model_card import write_model_card
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.modeling.weights_air import check_finite, check_shapes
from air_hf.puzzles import Puzzle, get_puzzle
from air_hf.tokenization import build_tokenizer
from air_hf.variants import REFERENCE_NAMES, VARIANTS, variant_config

CONFIG_FILE = "all_config.yaml"  # what the published codes write beside every step file
_MOST_BRACKETS = 1000  # in it

# The published codes' configuration names and ours. Names mapped to None say how to train, or are handled below.
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
    "pos_encodings": None,
    "mlp_t": None,
    "no_ACT_continue": None,
    "loss_type": None,
}

# Names that must hold whole numbers, because they are calculated with before our configuration checks its fields.
_WHOLE_NUMBERS = ("vocab_size", "seq_len", "hidden_size", "num_heads", "puzzle_emb_ndim", "puzzle_emb_len")

_POSITIONS = {"rope": "rotary", "learned": "learned", "none": "none"}
_LOSSES = {"stablemax_cross_entropy": "stablemax", "softmax_cross_entropy": "softmax"}

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

# What torch.compile, the loss head and the model's outer class leave in front of a weight's name.
_PREFIX = re.compile(r"((_orig_mod|model)\.)*(inner\.)?")


def _network(match: re.Match) -> str:
    """TRM calls its only network L_level; `rename_weights` turns H_level and L_level of HRM apart before."""
    return f"model.networks.{ {'f': 'shared', 'H': 'h', 'L': 'l'}[match[1]] }.layers.{match[2]}"


def rename_weights(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under our names.

    Accepts the prefixes `_orig_mod.`, `model.` and `inner.`, which `torch.compile`, the loss head and the outer class
    leave.

    Raises:
        ValueError: a name that none of the published codes uses, or two names of one weight.
    """
    names = {key: key[_PREFIX.match(key).end() :] for key in state_dict}
    two_networks = any(name.startswith("H_level.") for name in names.values())
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in state_dict.items():
        name = _our_name(names[key] if two_networks else re.sub(r"^L_level\.", "f_level.", names[key]))
        if name in renamed:
            raise ValueError(f"weight {name} is there twice, the second time as {key!r}")
        renamed[name] = tensor.flatten() if "level_token" in name else tensor
    return renamed


def _our_name(key: str) -> str:
    for pattern, target in _MODULES:
        match = re.fullmatch(pattern, key)
        if match:
            return target if isinstance(target, str) else target(match)
    raise ValueError(f"weight {key!r} is not one of the published AIR, HRM or TRM codes'")


def _num_layers(names) -> int:
    """Layers of every network; HRM's two must have the same number."""
    layers: dict[str, set[str]] = {}
    for name in names:
        match = re.match(r"model\.networks\.(\w+)\.layers\.(\d+)\.", name)
        if match:
            layers.setdefault(match[1], set()).add(match[2])
    counts = {network: len(numbers) for network, numbers in layers.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the networks must exist and have the same number of layers; found {counts}")
    return next(iter(counts.values()))


def _check_config(config_dict: dict) -> None:
    """Refuses published configurations with missing or unknown names, and values that cannot be calculated with."""
    missing = sorted({"vocab_size", "seq_len", "hidden_size", "num_heads"} - set(config_dict))
    if missing:
        raise ValueError(f"reference config names {missing} are missing")
    unknown = sorted(set(config_dict) - set(_CONFIG_FIELDS), key=str)
    if unknown:
        raise ValueError(f"unknown reference config names {unknown}; known: {sorted(_CONFIG_FIELDS)}")
    for name in _WHOLE_NUMBERS:
        value, least = config_dict.get(name, 1), 0 if name.startswith("puzzle_emb") else 1
        if type(value) is not int or value < least:  # bool is an int, too
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}")
    for name in ("mlp_t", "no_ACT_continue"):
        if not isinstance(config_dict.get(name, False), bool):
            raise ValueError(f"{name} is {config_dict[name]!r}; expected true or false")


def _choice(config_dict: dict, name: str, default: str, choices: dict[str, str]) -> str:
    """Our word for the published word that a configuration holds under `name`."""
    value = config_dict.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {sorted(choices)}")
    return choices[value]


def _model_fields(config_dict: dict, num_layers: int) -> dict:
    """Fields of [`AIRConfig`] that a published configuration and its weights' number of layers fix."""
    _check_config(config_dict)
    fields = {_CONFIG_FIELDS[name]: value for name, value in config_dict.items() if _CONFIG_FIELDS[name]}
    fields["num_hidden_layers"] = num_layers
    layers = {name: config_dict[name] for name in ("H_layers", "L_layers") if name in config_dict}
    if layers and num_layers not in layers.values():  # a shared network has one of the two
        raise ValueError(f"the weights have {num_layers} layers; the config says {layers}")
    prefix_dim = fields.get("prefix_dim", 0)
    # As in the published codes: enough positions for E numbers, unless TRM's puzzle_emb_len asks for more.
    fields["prefix_len"] = config_dict.get("puzzle_emb_len") or -(-prefix_dim // config_dict["hidden_size"])
    if prefix_dim == 0:
        fields["prefix_len"] = 0
    position_embedding = _choice(config_dict, "pos_encodings", "rope", _POSITIONS)
    # The MLP mixer of the published TRM does not look at rotary tables, whatever its configuration says.
    ignored = config_dict.get("mlp_t") and position_embedding == "rotary"
    fields["position_embedding"] = "none" if ignored else position_embedding
    fields["loss_function"] = _choice(config_dict, "loss_type", "stablemax_cross_entropy", _LOSSES)
    if "no_ACT_continue" in config_dict:
        fields["halting"] = "halt_only" if config_dict["no_ACT_continue"] else "q_learning"
    if "mlp_t" in config_dict:
        fields["mixer"] = "mlp" if config_dict["mlp_t"] else "attention"
    return fields


def load_reference(
    state_dict: dict[str, torch.Tensor], config_dict: dict, variant: str, puzzle: str | None = None
) -> AIRForPuzzleSolving:
    """Builds our model with the weights of a published checkpoint.

    Args:
        state_dict (`dict[str, torch.Tensor]`): weights under the published names, e.g. `inner.lm_head.weight`.
        config_dict (`dict`): the published configuration, e.g. `{"hidden_size": 512, "num_heads": 8, ...}`.
        variant (`str`): a published code's variant name (`gx_linear`, `trm_mlp`, ...) or ours.
        puzzle (`str`, *optional*): the configuration's `puzzle`, e.g. "sudoku-9x9".

    Returns:
        [`AIRForPuzzleSolving`] in evaluation mode, in float32.

    Raises:
        CheckpointError: weights that are missing, unexpected, of another shape or not finite; the message names them.
        ValueError: an unknown variant, configuration name or weight name.
        huggingface_hub.errors.StrictDataclassError: a configuration value that our configuration refuses.
    """
    weights = rename_weights(state_dict)
    config = variant_config(variant, **_model_fields(config_dict, _num_layers(weights)), puzzle=puzzle)
    with (
        torch.device("meta"),
        no_init_weights(),
    ):  # a configuration that asks for far too much is refused before memory is
        expected = AIRForPuzzleSolving(config).state_dict()
    shapes = ({name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (weights, expected))
    check_shapes(*shapes, f"the checkpoint, read as {variant!r},")
    check_finite(weights, "the checkpoint")
    model = AIRForPuzzleSolving(config)
    model.load_state_dict(weights)
    return model.eval()


def convert_checkpoint(
    path: str | Path,
    output: str | Path,
    variant: str | None = None,
    puzzle: str | None = None,
    config: str | Path | None = None,
    *,
    seq_len: int | None = None,
) -> AIRForPuzzleSolving:
    """Turns a published code's `step_N` file into a checkpoint folder of ours, with tokenizer and code files.

    Args:
        path (`str` or `Path`): the file that the published code wrote with `torch.save`: a state dict.
        output (`str` or `Path`): new folder; written beside its place and renamed, so it is whole or not there.
        variant (`str`, *optional*): as for [`load_reference`]; what the configuration's `arch.name` says if None.
        puzzle (`str`, *optional*): what the model was trained on, e.g. "sudoku-9x9".
        config (`str` or `Path`, *optional*): the published configuration; `all_config.yaml` beside `path` if None.
        seq_len (`int`, *optional*): cells of a board, in place of `puzzle` for boards that none of our puzzles has
            (ARC); the checkpoint then has no tokenizer.

    Returns:
        the converted [`AIRForPuzzleSolving`] in evaluation mode.

    Raises:
        CheckpointError: a missing file, one that holds anything but named tensors, or an `output` that exists.
        ValueError: an unknown variant or puzzle, configuration and weights that do not fit each other or the puzzle.
        huggingface_hub.errors.StrictDataclassError: a configuration value that our configuration refuses.
    """
    path, output = Path(path), Path(output)
    if not path.name:
        raise CheckpointError(f"{str(path)!r} is no file; expected a checkpoint of the published codes")
    if os.path.lexists(output):
        raise CheckpointError(f"{output} exists; give the name of a new folder")
    if (puzzle is None) == (seq_len is None):
        raise ValueError(f"give either puzzle or seq_len; they are {puzzle!r} and {seq_len!r}")
    rules = None if puzzle is None else get_puzzle(puzzle)
    arch_name, arch = read_arch(path.with_name(CONFIG_FILE) if config is None else config)
    variant = _choose_variant(variant, arch_name, arch)
    state_dict, digest = read_state_dict(path)
    model_config = _with_sizes(arch, state_dict, seq_len if rules is None else rules.num_cells)
    if rules is not None and model_config["vocab_size"] != rules.vocab_size:
        raise ValueError(
            f"{path} knows {model_config['vocab_size']} symbols; {rules.name} has {rules.vocab_size}, padding included"
        )
    model = load_reference(state_dict, model_config, variant, puzzle)
    step = re.fullmatch(r"step_(\d+)", path.name)
    facts = {"step": int(step[1])} if step else {}
    facts |= {"source_file": path.name, "source_sha256": digest, "variant": variant}
    _write_checkpoint(model, rules, facts, output)
    return model


def read_state_dict(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """Reads a file of named tensors that `torch.save` wrote, on the CPU, without running any code in it.

    Returns:
        the tensors by name, and the SHA-256 of the file.

    Raises:
        CheckpointError: no such file, a damaged one, or one that holds anything else; the message says what.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; expected one that torch.save wrote, e.g. step_26041")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint make the reader stumble anywhere
        raise CheckpointError(f"{path} {_why_unreadable(error)}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds {_kind(loaded)}; expected a state dict: tensors by name")
    for name, value in loaded.items():
        if not isinstance(name, str) or not _is_weight(value):
            raise CheckpointError(
                f"{path}: entry {name!r} is {_kind(value)}; expected nothing but floating-point tensors by name, "
                "dense and with all their numbers in the file"
            )
    return {name: value.detach() for name, value in loaded.items()}, sha256(path)


def _is_weight(value) -> bool:
    """Whether a loaded object is a dense floating-point tensor that brings all its numbers."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.layout != torch.strided:
        return False
    if value.is_nested or value.is_meta or not value.is_floating_point():
        return False
    # A few stored bytes may be declared a tensor of any size, by strides of 0.
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _why_unreadable(error: Exception) -> str:
    """PyTorch's reason in our words: its own message goes on to recommend unpickling the file after all."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found:
        return f"holds a pickled {found[1]}, which is not loaded; expected a state dict: tensors by name"
    if "TorchScript" in text:
        return "is a TorchScript program, which is not loaded; expected a state dict: tensors by name"
    return f"cannot be read ({type(error).__name__}): it is damaged, incomplete or not a file that torch.save wrote"


def _kind(value) -> str:
    """What a loaded object is, in a few words whatever its size."""
    if isinstance(value, torch.Tensor):
        return f"a {type(value).__name__} of {value.dtype}, {value.layout}, on {value.device}"
    return f"an object of type {type(value).__name__}"


def read_arch(path: str | Path) -> tuple[str, dict]:
    """The `arch` part of a published `all_config.yaml`: its name, and the model's configuration.

    The other parts (data, learning rates, names of runs) say how the model was trained and are not looked at.

    Raises:
        CheckpointError: no such file, or one without such a part.
        ValueError: unknown names in `arch.loss`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; expected the published code's {CONFIG_FILE}")
    try:
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > _MOST_BRACKETS:  # for a thousand of them the reader takes seconds
            raise CheckpointError(f"{path} is nested too deeply to be a published configuration")
        loaded = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    arch = loaded.get("arch") if isinstance(loaded, dict) else None
    if not isinstance(arch, dict):
        raise CheckpointError(f"{path} has no mapping named arch; expected the published code's {CONFIG_FILE}")
    name, loss = arch.get("name", ""), arch.get("loss", {})
    if not isinstance(name, str) or not isinstance(loss, dict):
        raise CheckpointError(f"{path}: arch.name is {_kind(name)}, arch.loss {_kind(loss)}; expected str and dict")
    unknown = sorted(loss.keys() - {"name", "loss_type"}, key=str)
    if unknown:
        raise ValueError(f"{path}: unknown names {unknown} in arch.loss; known: ['loss_type', 'name']")
    model = {key: value for key, value in (arch | loss).items() if key not in ("name", "loss")}
    return name, model


def _choose_variant(variant: str | None, arch_name: str, arch: dict) -> str:
    """Our name of the variant that is asked for, or else of the one that the configuration names.

    Raises:
        ValueError: an unknown variant, or none is asked for and the configuration names none of ours; the message
            lists the known ones.
    """
    # `air.air_1net_gx_linear@AIR`: the module, without what all of AIR's begin with, is the variant's published name.
    module = arch_name.partition("@")[0].rpartition(".")[2].removeprefix("air_1net_")
    if module == "trm":
        module = "trm_mlp" if arch.get("mlp_t") else "trm_att"
    named = {"hrm_act_v1": "hrm"}.get(module, REFERENCE_NAMES.get(module, module))
    chosen = named if variant is None else REFERENCE_NAMES.get(variant, variant)
    if chosen not in VARIANTS:
        reason = (
            f"arch.name {arch_name!r} does not say the variant" if variant is None else f"unknown variant {variant!r}"
        )
        raise ValueError(f"{reason}; known variants: {', '.join(VARIANTS)}")
    if named in VARIANTS and chosen != named:
        # Many variants have weights of the same shapes, so nothing else would tell.
        warnings.warn(f"arch.name {arch_name!r} says {named}; converting as {chosen}, as asked", stacklevel=3)
    return chosen


def _with_sizes(arch: dict, state_dict: dict[str, torch.Tensor], seq_len: int) -> dict:
    """`arch` with the sizes that the published codes take from their data: here from the weights and the puzzle.

    Raises:
        ValueError: `arch` gives other sizes, or there are no weights to read them off.
    """
    weights = rename_weights(state_dict)
    embedding, prefix = weights.get("model.embed_tokens.weight"), weights.get("model.prefix.weight")
    if embedding is None or embedding.ndim != 2:
        raise ValueError("weight embed_tokens.embedding_weight, whose rows are the symbols, is missing or no matrix")
    sizes = {"vocab_size": len(embedding), "seq_len": seq_len}
    if prefix is not None and prefix.ndim == 2:
        sizes["num_puzzle_identifiers"] = len(prefix)
    for name, size in sizes.items():
        if arch.get(name, size) != size:
            raise ValueError(f"the config says {name} {arch[name]!r}; the weights and the puzzle say {size}")
    return arch | sizes


def _write_checkpoint(model: AIRForPuzzleSolving, puzzle: Puzzle | None, facts: dict, output: Path) -> None:
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        if puzzle is not None:
            build_tokenizer(puzzle).save_pretrained(folder)
        write_text(folder / TRAINING_FACTS, json.dumps(facts, indent=2) + "\n")
        write_model_card(folder)
