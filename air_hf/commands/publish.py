"""`air-hf publish`: a checkpoint to the Hub."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.card_options import HELP, CardOptions
from air_hf.hub.publishing import publish_checkpoint
from air_hf.hub.transfer import TIMEOUT


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument("repository", help="ORG/NAME, or NAME for one of your own")
    add_publishing_options(parser)
    return _publish


def add_publishing_options(parser: argparse.ArgumentParser) -> None:
    """What every command that publishes checkpoints takes; [`publishing_options`] reads it."""
    parser.add_argument("--public", action="store_true", help="a new repository is private without this")
    parser.add_argument("--revision", help="branch to commit to (default main)")
    for name, help in HELP.items():
        default = getattr(CardOptions, name)
        parser.add_argument(f"--{name}", default=default, help=f"{help} (default: {default})" if default else help)
    add_timeout_option(parser)


def add_timeout_option(parser: argparse.ArgumentParser) -> None:
    """`--timeout` of everything that pushes."""
    parser.add_argument("--timeout", type=_seconds, default=TIMEOUT, help="seconds for a push (default %(default)g)")


def _seconds(word: str) -> float:
    seconds = float(word)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"timeout is {seconds}; it must be a positive number of seconds")
    return seconds


def publishing_options(args: argparse.Namespace) -> dict:
    """Keywords of [`publish_checkpoint`]."""
    card = CardOptions(**{name: getattr(args, name) for name in HELP})
    return {"private": not args.public, "revision": args.revision, "timeout": args.timeout, "card": card}


def _publish(args: argparse.Namespace) -> None:
    repository, commit = publish_checkpoint(args.checkpoint, args.repository, **publishing_options(args))
    print(f"published {args.checkpoint} as {repository}, commit {commit}")
    print(f'load it with: AutoModel.from_pretrained("{repository}", trust_remote_code=True)')
