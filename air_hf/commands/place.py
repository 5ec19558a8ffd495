"""Where a command finds a checkpoint, keeps downloads, and calculates: one definition of these options for all."""

import argparse

import torch

from air_hf.run_recipe import RunRecipe

_CACHE = RunRecipe.__dataclass_fields__["cache_dir"].metadata["help"]


def device(word: str) -> torch.device:
    """A device by its name, as the type of an option: it must be one of this machine that numbers can be on."""
    try:
        found = torch.empty(0, device=word).device
    except (RuntimeError, AssertionError) as error:  # an unknown name; a build of torch without it
        raise argparse.ArgumentTypeError(f"{word!r} cannot be used: {str(error).splitlines()[0]}") from error
    if found.type == "meta":
        raise argparse.ArgumentTypeError(f"{word!r} cannot be used: nothing is calculated there")
    return found


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """`--device`, where one process does the work."""
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    text = f"e.g. cpu, cuda:1 (default: an accelerator if there is one, here {best.type})"
    parser.add_argument("--device", type=device, default=best, help=text)


def add_cache_option(parser: argparse.ArgumentParser) -> None:
    """`--cache_dir`, as in training."""
    parser.add_argument("--cache_dir", help=_CACHE)


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes that loads a checkpoint; [`place_of`] reads it."""
    parser.add_argument("--revision", help="commit, tag or branch of the checkpoint's repository (default: main)")
    add_cache_option(parser)


def add_puzzle_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--puzzle`, for [`load_model`]."""
    parser.add_argument(
        "--puzzle",
        help="boards, e.g. maze-30x30, if not the checkpoint's own; other sizes fit the mixers convolution and "
        "candidates only",
    )


def place_of(args: argparse.Namespace) -> dict[str, str | None]:
    """Keywords of [`load_model`] and of what else reads a checkpoint."""
    return {"revision": args.revision, "cache_dir": args.cache_dir}
