"""Both data sets to a Hub on loopback and back, with the commands a user types; what `make hub-publish` and
`make hub-load` run.

python tests/support/hub_demo.py publish FOLDER    # generates, builds and publishes
python tests/support/hub_demo.py load FOLDER       # loads, and compares with what was built row by row
"""

import argparse
import subprocess
import sys
from pathlib import Path

from hub_server import Account, HubServer

FAMILIES = {"sudoku": ("1k", "1k-aug-1000"), "maze": ("1k", "1k-aug-8")}
# Run where only the Hub's address is known: the published rows, streamed and loaded, against the built Parquet files.
COMPARE = """
import sys
from datasets import load_dataset
repository, built, *configs = sys.argv[1:]
for config in configs:
    for split in ("train", "test"):
        published = load_dataset(repository, config, split=split)
        local = load_dataset("parquet", data_files=f"{built}/data/{config}/{split}-*.parquet", split="train")
        streamed = load_dataset(repository, config, split=split, streaming=True)
        count = 0
        for ours, theirs, stream in zip(local, published, streamed, strict=True):
            assert ours == theirs == stream, f"{repository}, {config}, {split}, row {count + 1}: {ours} became {theirs}"
            count += 1
        print(f"{repository}, {config}, {split}: {count:,} rows are equal")
"""


def publish(hub: HubServer, folder: Path, train: int, test: int) -> None:
    for family in FAMILIES:
        generator = ["--min_path_cells", "110"] if family == "maze" else []
        size = ["--num_train", train, "--num_test", test, "--subsample_size", train]
        configs = ["--configs", ",".join(FAMILIES[family])]
        built = folder / family
        words = ["build", family, "--source", "generate", *configs, "--output", built, *size, *generator]
        run(hub, folder, "-m", "air_hf.cli", "data", *words)
        run(hub, folder, "-m", "air_hf.cli", "data", "publish", built, f"me/{family}")


def load(hub: HubServer, folder: Path) -> None:
    for family, configs in FAMILIES.items():
        run(hub, folder, "-c", COMPARE, f"me/{family}", (folder / family).resolve(), *configs)


def run(hub: HubServer, folder: Path, *words) -> None:
    subprocess.run([sys.executable, *map(str, words)], env=hub.environment(folder / "home"), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("publish", "load"))
    parser.add_argument("folder", type=Path, help="for the Hub's repositories and what is built")
    parser.add_argument("--train", type=int, default=1000, help="train puzzles of each family")
    parser.add_argument("--test", type=int, default=1000, help="test puzzles of each family")
    options = parser.parse_args()
    with HubServer(options.folder / "hub", {"hf_local": Account("me")}) as hub:
        if options.action == "publish":
            publish(hub, options.folder, options.train, options.test)
        else:
            load(hub, options.folder)


if __name__ == "__main__":
    main()
