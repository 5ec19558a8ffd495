"""The door of a checkpoint: its files are looked at before anything is made of them.

Only headers are read here, so it costs milliseconds; whether the numbers are finite is asked after loading.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

_FLOATING = ("F16", "BF16", "F32", "F64")
_NAMED = 5  # things a message names before it counts the rest
_DEEPEST = 64  # objects and lists in one another; tools that look into them call themselves as often
_LARGEST_JSON = 2**24  # bytes; the index of a thousand shards has a hundredth of it


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete, damaged or of another model; the message names file and fault."""


def read_json_object(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: no such file, one that is too large, no JSON, nested too deeply, or not an object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_JSON + 1)
        value = json.loads(data.decode("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested more than {_DEEPEST} deep") from error
    except ValueError as error:  # of the encoding or of JSON
        size = f" in its first {_LARGEST_JSON:,} bytes" if len(data) > _LARGEST_JSON else ""
        raise CheckpointError(f"{path} is no JSON{size}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}; expected a JSON object")
    if _is_deep(value):
        raise CheckpointError(f"{path} is nested more than {_DEEPEST} deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        wholes = (
            whole.values() if isinstance(whole, dict) else whole for whole in level if isinstance(whole, dict | list)
        )
        level = list(chain.from_iterable(wholes))
    return bool(level)


def read_shapes(source: str | os.PathLike, variant: str | None = None, **place) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's weights, by name, from the headers of its safetensors files.

    Args:
        source (`str` or `os.PathLike`): a folder, or a repository on the Hub, whose files are fetched.
        variant (`str`, *optional*): as `from_pretrained` takes it, e.g. "fp16".
        place: where to look, as `from_pretrained` takes it: `revision`, `subfolder`, `cache_dir`, `token`, ...

    Raises:
        CheckpointError: no weights, or files that are incomplete, damaged, pickled or no floating-point numbers.
        OSError: the repository cannot be reached.
    """
    names = [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME]
    if variant:
        names = ["{0}.{2}.{1}".format(*name.rsplit(".", 1), variant) for name in names]
    whole, index = find_weights(source, names, **place)
    if whole is not None:
        return read_header(whole)
    if index is None:
        raise CheckpointError(f"{source} holds no weights: {names[0]} is missing{_pickled(source)}")
    facts = read_json_object(index)
    weight_map = facts.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} does not say which file holds which weight: weight_map is missing or empty")
    if not isinstance(facts.get("metadata"), dict):
        raise CheckpointError(f"{index}: metadata is {str(facts.get('metadata'))[:40]}; expected an object")
    listed: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{index}: weight {name} is in {file!r}; expected a safetensors file beside it")
        listed.setdefault(file, set()).add(name)
    shapes = {}
    for file, names in sorted(listed.items()):
        path = fetch_file(source, file, **place)
        if path is None:
            raise CheckpointError(f"{source} is incomplete: {file} is missing, which {Path(index).name} names")
        found = read_header(path)
        if found.keys() != names:
            raise CheckpointError(
                f"{path} holds other weights than {Path(index).name} says: {_some(found.keys() ^ names)}"
            )
        shapes |= found
    return shapes


def find_weights(
    source: str | os.PathLike, names: Sequence[str] = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), **place
) -> tuple[str | None, str | None]:
    """Where the file of all weights is on this machine or, without one, the index of several; see [`fetch_file`].

    Out of the Hub's reach, what the cache has is what there is.
    """
    try:
        whole = fetch_file(source, names[0], **place)
    except LocalEntryNotFoundError:
        return None, fetch_file(source, names[1], **place)
    return whole, None if whole is not None else fetch_file(source, names[1], **place)


def fetch_file(source: str | os.PathLike, name: str, subfolder: str = "", **place) -> str | None:
    """Where a file of a folder or a repository is on this machine; None if there is no such file.

    Raises:
        OSError, huggingface_hub.errors.HfHubHTTPError: the repository does not exist or is out of reach.
    """
    if os.path.isdir(source):
        path = os.path.join(source, subfolder, name)
        return path if os.path.isfile(path) else None
    try:
        return hf_hub_download(os.fspath(source), name, subfolder=subfolder or None, **place)
    except LocalEntryNotFoundError:  # not in the cache, and the Hub cannot be asked
        raise
    except EntryNotFoundError:
        return None


def _pickled(source: str | os.PathLike) -> str:
    """What there is instead, where `source` is a folder."""
    kinds = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".npz")
    others = sorted(path.name for path in Path(source).glob("*") if path.suffix in kinds)
    return f"; {_some(others)} would have to be unpickled, which can run code, and is not read" if others else ""


def read_header(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors, by name.

    Raises:
        CheckpointError: a file that is incomplete, damaged or no safetensors file, or holds other than floating-point
            numbers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            others = {name: part.get_dtype() for name, part in slices.items() if part.get_dtype() not in _FLOATING}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is incomplete, damaged or no safetensors file: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if others:
        found = _some(f"{name} of {kind}" for name, kind in others.items())
        raise CheckpointError(f"{path} holds {found}; weights are floating-point numbers ({', '.join(_FLOATING)})")
    return shapes


def check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], source) -> None:
    """Checks that the weights of a checkpoint are exactly those of the model it is for.

    Raises:
        CheckpointError: weights are missing, unexpected or of another shape; the message names them.
    """
    faults = []
    if missing := expected.keys() - found.keys():
        faults.append(f"missing: {_some(missing)}")
    if unexpected := found.keys() - expected.keys():
        faults.append(f"unexpected: {_some(unexpected)}")
    if others := [name for name in expected.keys() & found.keys() if found[name] != expected[name]]:
        shapes = (f"{name} {found[name]}, not {expected[name]}" for name in sorted(others))
        faults.append(f"of another shape: {_some(shapes)}")
    if faults:
        raise CheckpointError(f"{source} does not hold the weights of its configuration's model; {'; '.join(faults)}")


def check_finite(tensors: Mapping[str, torch.Tensor], source) -> None:
    """Checks that there is no NaN and no infinity.

    Raises:
        CheckpointError: naming the tensors that hold one.
    """
    # A sum is ten times as fast as asking every number, and cannot be finite if one of them is not.
    suspects = {name: tensor for name, tensor in tensors.items() if not tensor.is_meta and not tensor.sum().isfinite()}
    if bad := [name for name, tensor in suspects.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{source} holds weights that are not finite numbers: {_some(bad)}")


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name[:200] for name in names[:_NAMED]) + more


__all__ = ["CheckpointError", "check_finite", "check_shapes", "read_header", "read_json_object", "read_shapes"]
