"""Checkpoints, loaded from a folder or a repository with everything in them looked at."""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from tokenizers import Tokenizer
from transformers import AutoModel, PreTrainedTokenizerFast

from air_hf.errors import one_line
from air_hf.files import sha256
from air_hf.hub.shipped import resolve_checkpoint, shipped_checkpoints
from air_hf.hub.transfer import READ_ERRORS, describe_error
from air_hf.modeling import AIRConfig, AIRForPuzzleSolving, CheckpointError
from air_hf.modeling.weights_air import fetch_file, find_weights, read_json_object
from air_hf.puzzles import family_name, get_puzzle, puzzle_of
from air_hf.tokenization import build_tokenizer
from air_hf.variants import CONFIG_FIELDS

TRAINING_FACTS = "training.json"
EVALUATION = "evaluation.json"
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
# Of training.json, checked wherever it is read, if it says so at all.
_FACTS: dict[str, Any] = {
    "step": (int, type(None)), "ema": (int, float, type(None)), "arguments": dict, "variant": str,
}  # fmt: skip
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")  # of a tokenizer, besides its vocabulary
_PLACE = ("revision", "cache_dir", "token", "local_files_only", "force_download")


def load_model(source: str | Path, puzzle: str | None = None, **kwargs) -> AIRForPuzzleSolving:
    """Loads a checkpoint in evaluation mode, as `AutoModel.from_pretrained` does, with errors that say what is missing.

    Args:
        source (`str` or `Path`): a checkpoint folder, the name of one that comes with the package, or a repository on
            the Hub.
        puzzle (`str`, *optional*): boards to solve, e.g. "maze-30x30", if not those of the checkpoint: of the same
            family, and of another size only where the mixer is "convolution" or "candidates".
        kwargs: fields of the configuration, e.g. `max_segments`, and what `from_pretrained` takes besides: `dtype`,
            `revision`, `cache_dir`, `attn_implementation`.

    Raises:
        CheckpointError: no such folder or repository, a file that is missing or damaged, a configuration or weights
            that are not those of a model of this package, numbers that are not finite, a `puzzle` that its weights
            do not fit, or a `revision` of a folder.
    """
    source = resolve_checkpoint(source)
    if kwargs.get("revision") is not None and os.path.isdir(source):
        raise CheckpointError(f"{source} is a folder; revision {kwargs['revision']!r} is of a repository on the Hub")
    path = _find_config(source, **{name: kwargs[name] for name in _PLACE if name in kwargs})
    config = _parse_config(path, {name: kwargs.pop(name) for name in CONFIG_FIELDS if name in kwargs})
    if puzzle not in (None, config.puzzle):
        config = _resized(config, puzzle, source)
    if not os.path.isdir(source):  # all files of the same commit, by which the Hub's cache calls its folders
        kwargs["revision"] = path.parent.name
    try:
        model = AutoModel.from_pretrained(source, config=config, trust_remote_code=False, **kwargs)
    except (OSError, HfHubHTTPError, httpx2.HTTPError) as error:
        raise CheckpointError(f"{source}: the weights cannot be read ({describe_error(error)})") from error
    except CheckpointError:
        raise
    except ValueError as error:  # of the client, say, which does not name the repository
        raise CheckpointError(f"{source} cannot be loaded ({describe_error(error)})") from error
    return model.eval()


def read_config(source: str | Path, **place) -> AIRConfig:
    """The configuration of a checkpoint.

    Args:
        source (`str` or `Path`): a checkpoint folder, the name of one that comes with the package, or a repository on
            the Hub.
        place: `revision`, `cache_dir`, `token`.

    Raises:
        CheckpointError: no checkpoint, or a config.json that is damaged or none of this package's.
    """
    return _parse_config(_find_config(source, **place))


def _find_config(source: str | Path, **place) -> Path:
    path = find_file(source, "config.json", **place)
    if path is None:
        raise CheckpointError(f"{source} holds no checkpoint: config.json is missing")
    return path


def _parse_config(path: Path, changed: Mapping[str, Any] | None = None) -> AIRConfig:
    fields = read_json_object(path)
    if fields.get("model_type") != AIRConfig.model_type:
        raise CheckpointError(
            f"{path} is of model_type {fields.get('model_type')!r}; expected {AIRConfig.model_type!r}"
        )
    try:
        return AIRConfig.from_dict(fields | (changed or {}))
    except (ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error


def _resized(config: AIRConfig, puzzle: str, source: str | Path) -> AIRConfig:
    """The configuration for boards of another size of the same family, if the weights fit any."""
    known, rules = config.puzzle or "boards of no known puzzle", get_puzzle(puzzle, **(config.puzzle_options or {}))
    if not config.fits_any_board or family_name(config.puzzle) != rules.family:
        raise CheckpointError(
            f'{source} solves {known}, not {puzzle}; only weights whose mixer is "convolution" or "candidates", '
            f'without learned positions, fit boards of other sizes, of their own family (its mixer is "{config.mixer}")'
        )
    if rules.vocab_size != config.vocab_size and not config.fits_any_vocabulary:
        raise CheckpointError(
            f"{source} solves {known}, of {config.vocab_size} symbols; {puzzle} has {rules.vocab_size}"
        )
    return config.resized(puzzle, rules.num_cells, rules.vocab_size)


def find_file(source: str | Path, name: str, **place) -> Path | None:
    """Where a file of a checkpoint is on this machine, fetched if need be; None if the checkpoint has no such file.

    Raises:
        CheckpointError: there is no such checkpoint within reach.
    """
    source = resolve_checkpoint(source)
    if not os.path.isdir(source):
        if os.path.lexists(source):
            raise CheckpointError(f"{source} is no folder; expected a checkpoint folder, or a repository on the Hub")
        if not _REPO_ID.fullmatch(str(source)):
            raise CheckpointError(f"checkpoint folder {source} does not exist")
        if "/" not in str(source):  # repositories are ORG/NAME
            raise CheckpointError(
                f"checkpoint folder {source} does not exist, and no model of that name comes with the package; "
                f"there are {', '.join(shipped_checkpoints())}"
            )
    try:
        path = fetch_file(source, name, **place)
    except READ_ERRORS as error:
        raise CheckpointError(
            f"there is no checkpoint folder {source}, and no repository of that name within reach "
            f"({describe_error(error)})"
        ) from error
    return None if path is None else Path(path)


def weights_sha256(checkpoint: str | Path, **place) -> str:
    """SHA-256 of model.safetensors or, where the weights are in several files, of those files' own, one a line by name.

    Raises:
        CheckpointError: there are no weights, fewer files than the index lists, or files out of reach.
    """
    find_file(checkpoint, "config.json", **place)  # says what is wrong where there is no checkpoint
    try:
        whole, index = find_weights(resolve_checkpoint(checkpoint), **place)
    except READ_ERRORS as error:
        raise CheckpointError(f"{checkpoint}: the weights cannot be read ({describe_error(error)})") from error
    if whole is not None:
        return sha256(whole)
    if index is None:
        raise CheckpointError(f"{checkpoint} holds no model.safetensors")
    digests = []
    for name in sorted(set(read_json_object(index).get("weight_map", {}).values())):
        if (path := find_file(checkpoint, name, **place)) is None:
            raise CheckpointError(f"{checkpoint}: {name} is missing, which {Path(index).name} lists")
        digests.append(sha256(path))
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def load_tokenizer(source: str | Path, config: AIRConfig, **place) -> PreTrainedTokenizerFast:
    """The tokenizer of a configuration's puzzle, once the checkpoint's own file is seen to say the same of its puzzle.

    Args:
        source (`str` or `Path`): a checkpoint folder, the name of one that comes with the package, or a repository on
            the Hub.
        config ([`AIRConfig`]): the checkpoint's, perhaps for boards of another size; its puzzle must be known.
        place: `revision`, `cache_dir`, `token`.

    Raises:
        CheckpointError: tokenizer.json is missing, damaged or of another puzzle.
    """
    source = resolve_checkpoint(source)
    if config.fits_any_vocabulary and (own := read_config(source, **place)).puzzle != config.puzzle:
        load_tokenizer(source, own, **place)
        return build_tokenizer(puzzle_of(config))
    path, puzzle = find_file(source, "tokenizer.json", **place), puzzle_of(config)
    if path is None:
        raise CheckpointError(f"{source} has no tokenizer: tokenizer.json is missing")
    if config.vocab_size != puzzle.vocab_size:
        raise CheckpointError(
            f"{source}: vocab_size is {config.vocab_size}; {puzzle.name} has {puzzle.vocab_size}, padding included"
        )
    facts, tokenizer = read_json_object(path), build_tokenizer(puzzle)
    # Compared before the library runs them: a pattern may take for ever on a board, or panic.
    ours = json.loads(tokenizer.backend_tokenizer.to_str())
    for step in _STEPS:
        if facts.get(step) != ours[step]:
            raise CheckpointError(
                f"{path} is no tokenizer of {puzzle.name}: its {step} is {str(facts.get(step))[:80]}; "
                "expected the one that this package writes"
            )
    try:
        found = Tokenizer.from_file(str(path))
        ids = found.encode(puzzle.example).ids
        text = found.decode(ids)
    except Exception as error:  # the library raises nothing more special
        raise CheckpointError(f"{path} is no tokenizer of {puzzle.name}: {one_line(error)}") from error
    if ids != puzzle.parse(puzzle.example).tolist() or text != puzzle.example:
        raise CheckpointError(f"{path} is no tokenizer of {puzzle.name}: it makes other ids of a board")
    vocabularies = [each.get_vocab() for each in (found, tokenizer)]
    for symbol in sorted(set().union(*vocabularies)):
        theirs, ours = (vocabulary.get(symbol) for vocabulary in vocabularies)
        if theirs != ours:
            raise CheckpointError(f"{path} gives {symbol[:40]!r} the id {theirs}; {puzzle.name} has {ours}")
    return tokenizer


def read_facts(folder: str | Path, name: str) -> dict:
    """What a checkpoint records in one of its JSON files; empty where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / name
    return read_json_object(path) if path.exists() else {}


def training_facts(source: str | Path, **place) -> dict:
    """What a checkpoint's training.json says, of which `step` and `ema` are its weights'; empty where there is none.

    Raises:
        CheckpointError: no checkpoint, a damaged file, or an entry of another type.
    """
    path = find_file(source, TRAINING_FACTS, **place)
    facts = {} if path is None else read_json_object(path)
    check_types(facts, {name: kind for name, kind in _FACTS.items() if name in facts}, path)
    return facts


def check_types(record: dict, expected: dict[str, Any], place: str | Path) -> None:
    """Checks that entries of a record are there and of the types that they shall have, and numbers finite.

    Raises:
        CheckpointError: the message names `place` and the entry.
    """
    for name, kind in expected.items():
        if name not in record:
            raise CheckpointError(f"{place}: {name} is missing")
        value = record[name]
        if isinstance(kind, dict):
            if not isinstance(value, dict):
                raise CheckpointError(f"{place}: {name} is {repr(value)[:40]}; expected an object")
            check_types(value, kind, f"{place}, {name}")
        elif not isinstance(value, kind) or isinstance(value, bool) or not _is_finite(value):
            wanted = {str: "text", dict: "an object"}.get(kind, "a finite number")
            raise CheckpointError(f"{place}: {name} is {repr(value)[:40]}; expected {wanted}")


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
