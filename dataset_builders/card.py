"""The card of a data set, written from the facts of its build, and the picture of its difficulty."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from air_hf.dataset_builders.builders import PuzzleBuilder
from air_hf.dataset_builders.generate import make_generator
from air_hf.files import write_text

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
PICTURE = "images/difficulty.png"
_TEXT = """---
{metadata}
---

# {title}

{description}

```text
{example}
```

```python
from datasets import load_dataset

puzzles = load_dataset("{name}", "{config}", split="train")
print(puzzles[0]["question"], puzzles[0]["answer"])
```

Train on it with air-hf: `air-hf train --config RECIPE.yaml --dataset {name} --dataset_config {config}`.

## Configurations

| configuration | split | rows | puzzles | images of each | SHA-256 of the rows |
| --- | --- | --- | --- | --- | --- |
{table}

The SHA-256 is that of the lines `question,answer`, in order (`question,answer,puzzle_id` where puzzles have ids). Which
rows of the source file a subset holds, and the checksums of all files, are in `provenance.json`.

## Fields

- `source` (string): where the puzzle comes from.
- `question`, `answer` (string of {cells} symbols): the board row by row, {rows} rows of {columns}; {help}.
- `rating` (float): {rating}.
- `input_ids`, `labels` ({cells} integers each): the same boards as ids. Id 0 is padding (in labels: no label);
  the ids from 1 on are `{symbols}`.
{ids}
## How it was made

{made}

Every answer was checked against its question by the rules of the puzzle. {unique}
{classes} of the test puzzles have an image under the puzzle's symmetries among the train puzzles.

## Distributions

![Histogram of the rating of train and test puzzles]({picture})

What so many percent of the puzzles of `{config}`, images left out, do not exceed:

| | split | {quantiles} |
| --- | --- | {rules} |
{distributions}

## Known limits

{limits}
{citation}"""
_CITATION = """
## Citation

```bibtex
{}
```
"""
_WIDEST = 40  # symbols of a board that has another one beside it
_QUANTILES = (0, 10, 50, 90, 99, 100)


def draw_difficulty(path: Path, builder: PuzzleBuilder, title: str) -> None:
    """Writes a PNG: how the ratings of a configuration's train and test puzzles are distributed."""
    from matplotlib.figure import Figure  # of the extra "demo"

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    most = max(float(plan.ratings.max()) for plan in builder.plans.values())
    least = min(float(plan.ratings.min()) for plan in builder.plans.values())
    # Ratings of hard Sudokus spread over decades, path lengths do not.
    spread = least >= 0 and most > 20 * (least + 1)
    edges = np.unique(np.geomspace(1, most + 2, 40).astype(int)) - 1.5 if spread else np.linspace(least, most + 1, 40)
    for split, plan in builder.plans.items():
        weights = np.full(len(plan.ratings), 100 / len(plan.ratings))
        axes.hist(plan.ratings, edges, weights=weights, histtype="step", label=f"{split} ({len(plan.ratings):,})")
    if spread:
        axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="rating", ylabel="% of the puzzles", title=f"{title}, {builder.config.name}")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def write_card(
    folder: Path,
    name: str,
    builders: list[PuzzleBuilder],
    facts: dict[str, dict],
    questions: dict[str, np.ndarray],
    license: str,
) -> str:
    """Writes README.md: metadata that `load_dataset` and the Hub read, and what a person wants to know.

    Args:
        folder (`Path`): of the data set.
        name (`str`): what loads it: the folder's name, where somebody stands beside it.
        builders, facts: what was built, and how; the first configuration is the default one.
        questions (`dict`): of the first configuration, for each split (N, S), images left out.
        license (`str`): of the puzzles.

    Returns:
        the data set's title.
    """
    first = builders[0]
    puzzle, title = first.puzzle, _title(first)
    text = _TEXT.format(
        metadata=_metadata(builders, facts, license, title),
        title=title,
        name=name,
        description=first.info.description,
        example=_draw_example(first, facts[first.config.name], folder),
        config=first.config.name,
        table="\n".join(
            f"| `{config}` | {split} | {info['num_rows']:,} | {info['puzzles']:,} | {info['images_per_puzzle']:,} "
            f"| `{info['sha256']}` |"
            for config, fact in facts.items()
            for split, info in fact["splits"].items()
        ),
        cells=puzzle.num_cells,
        rows=puzzle.rows,
        columns=puzzle.columns,
        help=puzzle.symbols_help,
        rating=_rating_means(first),
        symbols=puzzle.symbols,
        ids="- `puzzle_id` (integer): which task a puzzle is of.\n" if "puzzle_id" in first.info.features else "",
        made=_how_made(first, facts),
        unique=_uniqueness(builders),
        classes=f"{max(fact['test_puzzles_with_a_class_in_train'] for fact in facts.values()):,}",
        picture=PICTURE,
        quantiles=" | ".join(f"{q} %" for q in _QUANTILES),
        rules=" | ".join("---" for _ in _QUANTILES),
        distributions=_distributions(first, questions),
        limits=first.limits(),
        citation=_CITATION.format(first.info.citation) if first.info.citation else "",
    )
    write_text(folder / "README.md", text)
    DatasetCard.load(folder / "README.md")  # the metadata can be read back
    return title


def _title(builder: PuzzleBuilder) -> str:
    if builder.config.source == "hub":
        return type(builder).__name__
    made = {"generate": "generated", "csv": "from CSV files"}[builder.config.source]
    return f"{builder.puzzle.family.capitalize()} {builder.puzzle.rows}x{builder.puzzle.columns}, {made}"


def _metadata(builders: list[PuzzleBuilder], facts: dict[str, dict], license: str, title: str) -> str:
    total = sum(split["num_rows"] for config in facts.values() for split in config["splits"].values())
    data = DatasetCardData(
        license=license,
        pretty_name=title,
        task_categories=["other"],
        tags=[builders[0].puzzle.family, "puzzle", "reasoning", "air-hf"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "10M<n<100M")],
    )
    DatasetInfosDict({builder.config.name: builder.info for builder in builders}).to_dataset_card_data(data)
    data.configs = [
        {
            "config_name": builder.config.name,
            "data_files": [
                {"split": split, "path": f"data/{builder.config.name}/{split}-*"} for split in builder.plans
            ],
        }
        | ({"default": True} if builder is builders[0] else {})
        for builder in builders
    ]
    return data.to_yaml()


def _draw_example(builder: PuzzleBuilder, facts: dict, folder: Path) -> str:
    """The first test puzzle and its answer."""
    file = next(iter(facts["splits"]["test"]["files"]))
    row = next(pq.ParquetFile(folder / file).iter_batches(1, columns=["question", "answer"]))
    puzzle = builder.puzzle
    question, answer = (puzzle.parse(column[0].as_py()) for column in row.columns)
    drawn = [puzzle.draw_text(board, question) for board in (question, answer)]
    wide = len(drawn[0][0]) > _WIDEST
    return "\n".join([*drawn[0], "", *drawn[1]] if wide else map("      ".join, zip(*drawn, strict=True)))


def _distributions(builder: PuzzleBuilder, questions: dict[str, np.ndarray]) -> str:
    rows = [("rating", split, plan.ratings) for split, plan in builder.plans.items()]
    for split, boards in questions.items():
        rows += [(name, split, values) for name, values in builder.measure(boards).items()]
    return "\n".join(
        f"| {name} | {split} | " + " | ".join(f"{value:.4g}" for value in np.percentile(values, _QUANTILES)) + " |"
        for name, split, values in sorted(rows, key=lambda row: row[0] != "rating")
    )


def _uniqueness(builders: list[PuzzleBuilder]) -> str:
    config = builders[0].config
    if all(builder.config.check_unique for builder in builders):
        return "Every question was shown to have exactly one solution."
    if config.source == "generate" and make_generator(builders[0].puzzle, **config.generator).unique:
        return "Every question has exactly one solution: the generator draws no others."
    return "That a question has only one solution was not checked."


def _rating_means(builder: PuzzleBuilder) -> str:
    return {
        "hub": builder.PUBLISHED_RATING,
        "generate": builder.config.source == "generate" and make_generator(builder.puzzle).rating,
        "csv": "as the CSV files have it, which do not say what it counts",
    }[builder.config.source]


def _how_made(first: PuzzleBuilder, facts: dict[str, dict]) -> str:
    """The source, and for every configuration its seed, subset and rows left out."""
    source = facts[first.config.name]["source"]
    files = ", ".join(f"`{split}.csv` {file['sha256']}" for split, file in source["files"].items())
    where = {
        "csv": "Read from local CSV files.",
        "hub": "Read from `{repository}` at commit `{revision}`.",
        "generate": "Drawn by the generator of air-hf: `{puzzle}`, seed {seed}, options {options}.",
    }[source["kind"]].format(**source)
    lines = [f"{where} SHA-256 of the files: {files}.", ""]
    for config, fact in facts.items():
        train = fact["splits"]["train"]
        subset = f"{train['puzzles']:,} of the {train['good_rows_in_file']:,} train puzzles"
        how = "all" if train["rows_of_file"] == "all" else f"drawn with seed {fact['seed']}"
        lines.append(f"- `{config}`: {subset} ({how})")
        if fact["min_difficulty"] is not None:
            lines[-1] += f", of rating {fact['min_difficulty']:g} or more"
        if train["images_per_puzzle"] > 1:
            lines[-1] += f", {train['images_per_puzzle']:,} images of each (the puzzle first), seed {fact['seed']}"
        skipped = {split: info["skipped"] for split, info in fact["splits"].items() if info["skipped"]}
        if skipped:
            lines[-1] += "; rows left out: " + ", ".join(f"{count:,} of {split}" for split, count in skipped.items())
    return "\n".join(lines)
