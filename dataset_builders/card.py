"""The card of a data set, written from the facts of its build, and the picture of its difficulty."""

from pathlib import Path

import numpy as np
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from air_hf.dataset_builders.builders import PuzzleBuilder
from air_hf.puzzles.reading import DataError

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_TEXT = """---
{metadata}
---

# {title}

{description}

```python
from datasets import load_dataset

puzzles = load_dataset("{repository}", "{config}", split="train")
print(puzzles[0]["question"], puzzles[0]["answer"])
```

`{repository}` stands for the name of this repository. Train on it with
[air-hf](https://arxiv.org/abs/2605.17811): `accelerate launch examples/train.py --dataset {repository} --dataset_config
{config}`.

## Configurations

| configuration | split | rows | puzzles | images of each | SHA-256 of the rows |
| --- | --- | --- | --- | --- | --- |
{table}

The SHA-256 is that of the lines `question,answer`, in order. Which rows of the source file a subset holds, and the
checksums of all files, are in `provenance.json`.

## Fields

- `source` (string): where the puzzle comes from.
- `question`, `answer` (string of {cells} symbols): the board row by row, {rows} rows of {columns}.
- `rating` (float): difficulty; {rating}.
- `input_ids`, `labels` ({cells} integers each): the same boards as ids. Id 0 is padding (in labels: no label);
  the ids from 1 on are `{symbols}`.

## How it was made

{made}

Every answer was checked against its question by the rules of the puzzle. {unique} Whole symmetry classes:
{classes} of the test puzzles have an image among the train puzzles.

## Difficulty

![Histogram of the rating of train and test puzzles](images/difficulty.png)

| split | {quantiles} |
| --- | {rules} |
{difficulty}

## Known limits

{limits}

## Citation

```bibtex
{citation}
```
"""
_QUANTILES = (0, 10, 50, 90, 99, 100)


def draw_difficulty(path: Path, builder: PuzzleBuilder) -> None:
    """Writes a PNG: how the ratings of a configuration's train and test puzzles are distributed.

    Raises:
        DataError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError('the card needs matplotlib for its picture: pip install "air-hf[demo]"') from error
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    most = max(float(plan.ratings.max()) for plan in builder.plans.values())
    least = min(float(plan.ratings.min()) for plan in builder.plans.values())
    # Ratings of hard Sudokus spread over decades, path lengths do not.
    spread = most > 20 * (least + 1)
    edges = np.unique(np.geomspace(1, most + 2, 40).astype(int)) - 1.5 if spread else np.linspace(least, most + 1, 40)
    for split, plan in builder.plans.items():
        weights = np.full(len(plan.ratings), 100 / len(plan.ratings))
        axes.hist(plan.ratings, edges, weights=weights, histtype="step", label=f"{split} ({len(plan.ratings):,})")
    if spread:
        axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="rating", ylabel="% of the puzzles", title=f"{type(builder).__name__}, {builder.config.name}")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def write_card(path: Path, builders: list[PuzzleBuilder], facts: dict[str, dict], license: str) -> None:
    """Writes README.md: metadata that `load_dataset` and the Hub read, and what a person wants to know."""
    first = builders[0]
    puzzle, family = first.puzzle, type(first).__name__
    total = sum(split["num_rows"] for config in facts.values() for split in config["splits"].values())
    data = DatasetCardData(
        license=license,
        pretty_name=family,
        task_categories=["other"],
        tags=[puzzle.family, "puzzle", "reasoning", "air-hf"],
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
        | ({"default": True} if builder is first else {})
        for builder in builders
    ]
    table = [
        f"| `{config}` | {split} | {info['num_rows']:,} | {info['puzzles']:,} | {info['images_per_puzzle']:,} "
        f"| `{info['sha256']}` |"
        for config, fact in facts.items()
        for split, info in fact["splits"].items()
    ]
    difficulty = [
        f"| {split} | " + " | ".join(f"{value:g}" for value in np.percentile(plan.ratings, _QUANTILES)) + " |"
        for split, plan in first.plans.items()
    ]
    text = _TEXT.format(
        metadata=data.to_yaml(),
        title=family,
        description=first.DESCRIPTION,
        repository=f"ORG/{family}",
        config=first.config.name,
        table="\n".join(table),
        cells=puzzle.num_cells,
        rows=puzzle.rows,
        columns=puzzle.columns,
        rating=_rating_means(first),
        symbols=puzzle.symbols,
        made=_how_made(first, facts),
        unique=(
            "Every question was shown to have exactly one solution."
            if all(builder.config.check_unique for builder in builders)
            else "That a question has only one solution was not checked."
        ),
        classes=f"{max(fact['test_puzzles_with_a_class_in_train'] for fact in facts.values()):,}",
        quantiles=" | ".join(f"{q} %" for q in _QUANTILES),
        rules=" | ".join("---" for _ in _QUANTILES),
        difficulty="\n".join(difficulty),
        limits=first.LIMITS,
        citation=first.CITATION,
    )
    path.write_text(text, encoding="utf-8")
    DatasetCard.load(path)  # the metadata can be read back


def _rating_means(builder: PuzzleBuilder) -> str:
    if builder.config.source == "generate":
        return builder.GENERATED_RATING
    return builder.PUBLISHED_RATING


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
