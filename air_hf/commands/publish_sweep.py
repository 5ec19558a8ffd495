"""`air-hf publish-sweep`: all checkpoints of a sweep to the Hub, with one table and a collection."""

import argparse
from collections.abc import Callable
from pathlib import Path

from air_hf.commands.publish import add_publishing_options, publishing_options
from air_hf.hub.sweep import publish_sweep


def configure(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    parser.epilog = "Exit status: 0 if every run of the sweep is published, 1 if some are not, 2 for bad input."
    parser.add_argument("folder", type=Path, help="folder of the runs, the --output of `air-hf sweep`")
    parser.add_argument("namespace", help="user or organisation to publish under")
    parser.add_argument("--name", help="of the collection, and what the repositories' names begin with (air-PUZZLE)")
    add_publishing_options(parser)
    return _publish


def _publish(args: argparse.Namespace) -> int:
    is_whole = publish_sweep(args.folder, args.namespace, args.name, **publishing_options(args))
    return 0 if is_whole else 1
