"""`air-hf publish`: a checkpoint to the Hub."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.hub.publishing import publish_checkpoint


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument("repository", help="ORG/NAME")
    parser.add_argument("--public", action="store_true", help="a new repository is private without this")
    parser.add_argument("--revision", help="branch to commit to (default main)")
    return _publish


def _publish(args: argparse.Namespace) -> None:
    commit = publish_checkpoint(args.checkpoint, args.repository, private=not args.public, revision=args.revision)
    print(f"published {args.checkpoint} as {args.repository}, commit {commit}")
    print(f'load it with: AutoModel.from_pretrained("{args.repository}")')
