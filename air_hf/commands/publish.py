"""`air-hf publish`: a checkpoint to the Hub."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.hub.model_card import CardOptions
from air_hf.hub.publishing import publish_checkpoint
from air_hf.hub.transfer import TIMEOUT


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument("repository", help="ORG/NAME, or NAME for one of your own")
    parser.add_argument("--revision", help="branch to commit to (default main)")
    add_publishing_options(parser)
    return _publish


def add_publishing_options(parser: argparse.ArgumentParser) -> None:
    """What every command that publishes checkpoints takes; [`publishing_options`] reads it."""
    parser.add_argument("--public", action="store_true", help="a new repository is private without this")
    parser.add_argument("--license", default=CardOptions.license, help="identifier on the Hub (default %(default)s)")
    parser.add_argument("--project_url", help="address of the project, for the card")
    parser.add_argument("--tags", default="", help="further tags of the card, separated by commas")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for a push (default %(default)g)")


def publishing_options(args: argparse.Namespace) -> dict:
    """Keywords of [`publish_checkpoint`]."""
    if not args.timeout > 0:
        raise ValueError(f"timeout is {args.timeout}; it must be a positive number of seconds")
    tags = tuple(tag.strip() for tag in args.tags.split(",") if tag.strip())
    card = CardOptions(args.license, args.project_url, tags)
    return {"private": not args.public, "timeout": args.timeout, "card": card}


def _publish(args: argparse.Namespace) -> None:
    options = publishing_options(args)
    repository, commit = publish_checkpoint(args.checkpoint, args.repository, revision=args.revision, **options)
    print(f"published {args.checkpoint} as {repository}, commit {commit}")
    print(f'load it with: AutoModel.from_pretrained("{repository}")')
