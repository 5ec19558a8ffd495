"""The options of solving on a command line, the same wherever one solves: `--mode`, and every field of SolveConfig."""

import argparse
import dataclasses
from collections.abc import Collection

from air_hf.modeling.solving_air import CHOICES, SolveConfig
from air_hf.puzzles import Puzzle
from air_hf.solving.rules import find_images, find_verifier

MODES = {
    "adaptive": "cheap first, then noisy rollouts from symmetric images, only for what is unsolved, up to --budget",
    "plain": "all segments once and the answer they end with, as in published evaluations",
    "calibrated": "as the checkpoint's solve_config.json says",
}
_HELP = {
    "max_segments": "segments of a rollout (default: the checkpoint's; adaptive: of solve_config.json, or twice those)",
    "early_exit": "what ends a board before: its halting score, training's halting rule, an unchanged answer, rules",
    "q_halt_threshold": "score that --early_exit q_halt or trained needs, a logit; higher is slower and safer "
    "(adaptive: what air-hf calibrate found to be trusted, else 4)",
    "patience": "segments over which --early_exit unchanged wants the same answer",
    "rollouts": "attempts at a board (adaptive: as many as the budget allows)",
    "noise": "standard deviation of the noise; 0 is none (adaptive: the checkpoint's, else 0.3)",
    "noise_on": "states that get noise",
    "noise_every": "noise before every segment or every H-cycle (adaptive: as the checkpoint says, else segment)",
    "start": "states that a rollout starts from",
    "symmetries": "let every rollout but the first look at a random symmetric image of the board",
    "select": "which rollout's answer is taken",
    "plain_first": "the first rollout runs alone and without noise",
    "rollouts_at_once": "rollouts of a board that run together",
    "budget": "most model calls (segments of one board) a board may take (adaptive: 256)",
    "seed": "of the noise and the images",
}  # fmt: skip
_NUMBERS = {"q_halt_threshold": float, "noise": float}


def add_options(parser: argparse.ArgumentParser, mode: str, without: Collection[str] = ()) -> None:
    """Adds the options but those that the command has of its own; `mode` is the default of `--mode`."""
    group = parser.add_argument_group("how to solve")
    modes = "; ".join(f"{name}: {text}" for name, text in MODES.items())
    group.add_argument("--mode", choices=MODES, default=mode, help=f"{modes} (default {mode}); what follows changes it")
    for field in dataclasses.fields(SolveConfig):
        if field.name in without or field.name not in _HELP:
            continue
        if field.name in CHOICES:
            group.add_argument(f"--{field.name}", choices=CHOICES[field.name], help=_HELP[field.name])
        elif type(field.default) is bool:
            group.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, help=_HELP[field.name])
        else:
            kind = _NUMBERS.get(field.name, int)
            group.add_argument(f"--{field.name}", type=kind, metavar=kind.__name__.upper(), help=_HELP[field.name])


def config_of(args: argparse.Namespace, stored: SolveConfig, puzzle: Puzzle | None) -> SolveConfig:
    """The plan that a command line asks for.

    Args:
        args (`argparse.Namespace`): with the options of [`add_options`].
        stored ([`SolveConfig`]): the checkpoint's; the adaptive mode takes from it the score that it trusts, and the
            noise and the length of rollouts that suit it.
        puzzle ([`Puzzle`], *optional*): its rules, where it has any, stop the adaptive mode, and its symmetries vary
            its rollouts.

    Raises:
        ValueError: a value out of its range, a threshold or patience that nothing looks at, or an adaptive mode that
            could not tell when to stop.
    """
    given = {name: getattr(args, name) for name in _HELP}
    given = {name: value for name, value in given.items() if value is not None}
    if args.mode == "adaptive":
        early_exit = "verifier" if find_verifier(puzzle) else "q_halt"
        chosen = {"early_exit": early_exit, "symmetries": find_images(puzzle) is not None}
        if stored.noise:
            chosen |= {name: getattr(stored, name) for name in ("noise", "noise_on", "noise_every")}
        budget = given.get("budget", SolveConfig.adaptive().budget)
        if stored.max_segments is not None and stored.max_segments <= budget:
            chosen["max_segments"] = stored.max_segments
        config = SolveConfig.adaptive(**(chosen | given))
        if config.early_exit == "unchanged":
            raise ValueError(
                "--early_exit unchanged does not tell when a board is solved, and --mode adaptive goes on until it is; "
                "choose q_halt, trained or verifier, or --mode plain"
            )
        # Not the threshold of the plain loop, which loses nothing by accepting what is wrong at its end, too.
        if config.early_exit == "q_halt" and stored.trusted_q_halt is not None and "q_halt_threshold" not in given:
            config = dataclasses.replace(config, q_halt_threshold=stored.trusted_q_halt)
    else:
        if args.mode == "calibrated" and stored == SolveConfig():
            raise ValueError(
                "--mode calibrated, but the checkpoint has no solve_config.json; `air-hf calibrate` makes one"
            )
        config = dataclasses.replace(stored if args.mode == "calibrated" else SolveConfig(), **given)
    if "patience" in given and config.early_exit != "unchanged":
        raise ValueError(f"--patience is that of --early_exit unchanged; this is {config.early_exit}")
    if "q_halt_threshold" in given and config.early_exit not in ("q_halt", "trained"):
        raise ValueError(
            "--q_halt_threshold is the threshold of --early_exit q_halt and --early_exit trained; "
            f"this is {config.early_exit}"
        )
    return config


def is_plain(config: SolveConfig) -> bool:
    """Whether this is the loop of published evaluations, of however many segments: one rollout, no noise, no exit."""
    return config == SolveConfig(max_segments=config.max_segments, seed=config.seed)


def describe(config: SolveConfig) -> str:
    """What stops and what chooses, in a few words; whether the rules take part is always among them."""
    stops = {
        "never": "every segment run",
        "q_halt": f"stops at q_halt > {config.q_halt_threshold:g}",
        "trained": f"stops by training's rule, threshold {config.q_halt_threshold:g}",
        "unchanged": f"stops after {config.patience} segments without a change",
        "verifier": "stops where the rules accept",
    }
    chosen = f", chosen by {config.select}" if config.rollouts > 1 and config.early_exit != "verifier" else ""
    part = "took part" if config.needs_verifier else "took no part"
    return f"{stops[config.early_exit]}{chosen}; the verifier {part}"
