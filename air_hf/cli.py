"""The `air-hf` command: a dispatcher; each command's parser and worker are in `air_hf/commands/`."""

import importlib
import os
import signal
import sys

import httpx2
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils.logging import disable_progress_bar

from air_hf import __version__
from air_hf.allocator import keep_freed_memory
from air_hf.errors import one_line
from air_hf.parsing import Parser
from air_hf.products import use_wide_float32_products

# Imported when called, so that `air-hf --help` is quick.
COMMANDS = {
    "train": "train a model from a recipe",
    "evaluate": "score a checkpoint on puzzles",
    "data": "generate, build, publish and inspect data sets",
    "benchmark": "measure this machine, and how much of it training and solving use",
    "recipes": "list or print the published recipes",
    "sweep": "train variants, or with other fields, with several seeds and tabulate them",
    "solve": "solve boards with a checkpoint",
    "analyze": "look inside a checkpoint: tables, figures and an animation of both states",
    "reproduce": "the paper's tables of the two states from a checkpoint, beside the paper's numbers",
    "calibrate": "choose when a checkpoint stops, on given puzzles",
    "publish": "push a checkpoint to the Hub in one commit",
    "publish-sweep": "push all checkpoints of a sweep, with one table and a collection",
    "publish-space": "push the page that `make space` assembled as a static Space",
    "export": "write a checkpoint as ONNX graphs",
    "convert": "turn a checkpoint of the published AIR, HRM and TRM codes into ours",
}


def _hide_bars_of_weights() -> None:
    """Loading and writing them is over at once, and their bars break a run's own; those of downloads stay."""
    hidden = are_progress_bars_disabled()
    disable_progress_bar()  # which hides the Hub's, too
    if not hidden:
        enable_progress_bars()


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="air-hf", description="Recurrent puzzle solvers: data, models, the Hub.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    argv = sys.argv[1:] if argv is None else argv
    name = parser.parse_args(argv[:1]).command
    module = importlib.import_module(f"air_hf.commands.{name.replace('-', '_')}")
    parser = Parser(prog=f"air-hf {name}", description=COMMANDS[name][0].upper() + COMMANDS[name][1:])
    importlib.import_module("air_hf.hub.client").limit_silence()
    run = module.configure(parser)
    keep_freed_memory()
    use_wide_float32_products()
    _hide_bars_of_weights()
    try:
        status = run(parser.parse_args(argv[1:]))
    except BrokenPipeError:  # who reads the output, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # of what is still to be flushed
        status = 128 + signal.SIGPIPE
    # Bad input of ours is a ValueError throughout; the others are the Hub's and the file system's.
    except (ValueError, StrictDataclassError, HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        print(f"air-hf {name}: error: {one_line(error)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print(f"air-hf {name}: stopped", file=sys.stderr)
        status = 130
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
