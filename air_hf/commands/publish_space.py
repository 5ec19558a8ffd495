"""`air-hf publish-space`: the page to the Hub, as a static Space."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.commands.publish import add_timeout_option
from air_hf.hub import PublishError, push_folder, resolve_repository


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    parser.add_argument("repository", help="ORG/NAME")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/space"), help="what `make space` assembled (default build/space)"
    )
    parser.add_argument("--public", action="store_true", help="a new Space is private without this")
    add_timeout_option(parser)
    return _publish


def _publish(args: argparse.Namespace) -> None:
    if not (args.folder / "models.json").is_file():
        raise PublishError(f"{args.folder} holds no page: models.json is missing; assemble it with `make space`")
    repository = resolve_repository(args.repository, timeout=args.timeout)
    commit = push_folder(args.folder, repository, "space", private=not args.public, timeout=args.timeout)
    print(f"published {args.folder} as the Space {repository}, commit {commit}")
