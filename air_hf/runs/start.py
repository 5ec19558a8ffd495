"""From a recipe to a run: configuration, processes, model; and how a command that trains ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env, set_seed
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id

from air_hf.allocator import keep_freed_memory
from air_hf.cores import cores_of_a_process
from air_hf.data import PuzzleSet
from air_hf.errors import one_line
from air_hf.evaluation import EvaluationResult
from air_hf.hub import CheckpointError, load_model, read_config
from air_hf.hub.model_card import find_variant
from air_hf.modeling import AIRConfig, AIRForPuzzleSolving
from air_hf.products import use_wide_float32_products
from air_hf.run_recipe import RunRecipe
from air_hf.runs.data import load_data
from air_hf.runs.interruption import EXIT_STATUS, Interrupted
from air_hf.runs.processes import process_handlers
from air_hf.runs.run import Run
from air_hf.training import NonFiniteError, attention_for, precision_for
from air_hf.variants import CONFIG_FIELDS, variant_config


def train(recipe: RunRecipe, model_fields: dict[str, Any]) -> EvaluationResult | None:
    """Trains as a recipe says, from data to the last scores; what `air-hf train` does.

    Raises:
        ValueError, OSError: bad input, or a machine that fails; see [`Run`].
        Interrupted: a signal told the run to stop.
    """
    train_source, test_source = load_data(recipe)
    recipe, config = make_config(recipe, model_fields, train_source.puzzles)
    accelerator = make_accelerator(recipe, config)
    run = Run(recipe, make_model(recipe, config, accelerator), train_source, test_source, accelerator)
    accelerator.print(run.describe())
    scores = run.train()
    accelerator.print(
        f"\n{scores.table() if scores else 'nothing was left to train'}\n\ncheckpoint: {run.folder.checkpoint}"
    )
    return scores


def make_config(recipe: RunRecipe, model_fields: dict[str, Any], puzzles: PuzzleSet) -> tuple[RunRecipe, AIRConfig]:
    """The model's configuration: the variant's or that of `init_from`, the fields that were set, and the data's.

    Returns:
        the recipe, its variant filled in, and the configuration.
    """
    puzzle = puzzles.puzzle
    from_data = {"vocab_size": puzzle.vocab_size, "seq_len": puzzle.num_cells, "puzzle": puzzle.name,
                 "puzzle_options": puzzle.options or None, "num_puzzle_ids": puzzles.num_puzzle_ids}  # fmt: skip
    if recipe.init_from is None or recipe.variant is not None:
        recipe = replace(recipe, variant=recipe.variant or "Lx_H")
        return recipe, variant_config(recipe.variant, **model_fields | from_data)
    theirs = read_config(recipe.init_from, cache_dir=recipe.cache_dir)
    if theirs.fits_any_vocabulary:  # as many groups of features as the data have digits, each as wide as before
        theirs = theirs.resized(puzzle.name, puzzle.num_cells, puzzle.vocab_size)
    config = AIRConfig(**{name: getattr(theirs, name) for name in CONFIG_FIELDS} | model_fields | from_data)
    return replace(recipe, variant=find_variant(config)), config


def make_accelerator(recipe: RunRecipe, config: AIRConfig) -> Accelerator:
    """Device, precision and processes; CPU processes share the cores.

    Raises:
        ValueError: slots that cannot be shared, or a bad name of a repository, which shall not show after hours.
        ImportError: the tracker is not installed.
    """
    if recipe.push_to_hub:
        validate_repo_id(recipe.push_to_hub)
    trackers = {} if recipe.report_to == "none" else {"log_with": recipe.report_to, "project_dir": recipe.output_dir}
    handlers = process_handlers(config, recipe.collective_timeout)
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    precision = precision_for(recipe.mixed_precision, "cpu" if on_cpu else "cuda")
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=handlers, **trackers)
    if recipe.batch_size % (accelerator.num_processes * recipe.accumulation_steps):
        raise ValueError(
            f"batch_size ({recipe.batch_size}) is not a multiple of {accelerator.num_processes} processes × "
            f"accumulation_steps ({recipe.accumulation_steps})"
        )
    if recipe.report_to != "none" and not accelerator.log_with:  # Accelerate only warns
        raise ImportError(f"report_to is {recipe.report_to!r}, which is not installed")
    keep_freed_memory()
    use_wide_float32_products()
    # `accelerate launch` leaves a CPU process one thread unless told otherwise.
    torch.set_num_threads(recipe.num_threads or cores_of_a_process(accelerator.num_processes))
    return accelerator


def make_model(recipe: RunRecipe, config: AIRConfig, accelerator: Accelerator) -> AIRForPuzzleSolving:
    """A model with the weights that `seed` draws, and of these those that `init_from` has.

    Raises:
        CheckpointError: weights of `init_from` have another shape; the message names them.
    """
    set_seed(recipe.seed)
    model = AIRForPuzzleSolving(config)
    model.set_attn_implementation(attention_for(recipe.attention, accelerator.device))
    if recipe.init_from is not None:
        for note in take_weights(model, recipe.init_from, cache_dir=recipe.cache_dir):
            accelerator.print(f"note: {note}")
    return model


def take_weights(model: AIRForPuzzleSolving, source: str, **place) -> list[str]:
    """Copies a checkpoint's weights into a model, by name; `place` is as [`load_model`] takes it.

    Returns:
        what only one of the two has, a line each.

    Raises:
        CheckpointError: no checkpoint, or weights of another shape; the message names them.
    """
    ours, theirs = model.state_dict(), load_model(source, **place).state_dict()
    shared = ours.keys() & theirs.keys()
    if others := sorted(name for name in shared if ours[name].shape != theirs[name].shape):
        shapes = (f"{name} {tuple(theirs[name].shape)}, not {tuple(ours[name].shape)}" for name in others)
        raise CheckpointError(f"{source} has weights of another shape than this model: {'; '.join(shapes)}")
    model.load_state_dict({name: theirs[name] for name in shared}, strict=False)
    only = {"begins anew": ours.keys() - shared, f"of {source} is left out": theirs.keys() - shared}
    return [f"{name} {fate}" for fate, names in only.items() for name in sorted(names)]


@contextmanager
def exit_statuses(program: str) -> Iterator[None]:
    """Ends the process as a command that trains does: 0, 2 and a line about what is wrong, or 75 for a stopped run."""
    status = 0
    try:
        yield
    except Interrupted as reason:
        if PartialState().is_main_process:
            print(f"{program}: {reason}; go on with --resume_from latest", flush=True)
        status = EXIT_STATUS
    # DataError and CheckpointError are ValueErrors; an attention backend may need a package that is not there.
    except (ValueError, StrictDataclassError, HfHubHTTPError, ImportError, NonFiniteError, OSError) as error:
        print(f"{program}: error: {one_line(error)}", file=sys.stderr, flush=True)
        status = 2
    sys.exit(status)
