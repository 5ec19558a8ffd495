"""The card of a checkpoint, written from its own files: `config.json`, `training.json` and `evaluation.json`."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from yaml import safe_dump

from air_hf.card_options import CardOptions
from air_hf.files import atomic_file, write_text
from air_hf.hub.loading import TRAINING_FACTS, read_config
from air_hf.hub.records import Records, hub_name, published_record, read_records
from air_hf.modeling import AIRConfig
from air_hf.puzzles import Puzzle, family_name, puzzle_of
from air_hf.variants import VARIANTS

_CURVE = "images/training.png"
_LONGEST_LINE = 90  # symbols of a board that is printed on one line
_RECIPE_ORDER = ("variant", "max_steps", "batch_size", "learning_rate", "warmup_steps", "min_lr_ratio", "weight_decay")
_MIXING = {
    "mlp": "MLP over positions",
    "convolution": "depthwise 3 × 3 convolutions",
    "candidates": "sums over rows, columns, boxes and cells",
}
_TEXT = """---
{metadata}
---

# {name}

{summary}

{board}## Use it

{use}
## The model

{place}

{architecture}

## Training

{training}
## Results

{results}
{more}## Limits

- {boards}
- An answer may be wrong, and the halting score, from which the confidence comes, may be wrong about it. {check}
{limits}
## Citation

```bibtex
@misc{{shen2026air,
  title = {{One Model, Two Roles: Emergent Specialization in a Shared Recurrent Transformer}},
  author = {{Shen, Jucheng and Su, Barbara and Kyrillidis, Anastasios}},
  year = {{2026}}, eprint = {{2605.17811}}, archivePrefix = {{arXiv}}, url = {{https://arxiv.org/abs/2605.17811}}
}}
@misc{{jolicoeur2025trm,
  title = {{Less is More: Recursive Reasoning with Tiny Networks}},
  author = {{Jolicoeur-Martineau, Alexia}},
  year = {{2025}}, eprint = {{2510.04871}}, archivePrefix = {{arXiv}}, url = {{https://arxiv.org/abs/2510.04871}}
}}
@misc{{wang2025hrm,
  title = {{Hierarchical Reasoning Model}},
  author = {{Wang, Guan and Li, Jin and Sun, Yuhao and Chen, Xing and Liu, Changling and Wu, Yue and Lu, Meng and
            Song, Sen and Abbasi Yadkori, Yasin}},
  year = {{2025}}, eprint = {{2506.21734}}, archivePrefix = {{arXiv}}, url = {{https://arxiv.org/abs/2506.21734}}
}}
```
"""
_USE = """```python
{imports}from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("{repository}"{trust})
tokenizer = AutoTokenizer.from_pretrained("{repository}", trust_remote_code=False)
board = {board}
ids = tokenizer(board, return_tensors="pt").input_ids
print(tokenizer.decode(model.solve(ids).sequences[0]))
```

{code} Or in one line, with the answer checked by the rules:

```python
{imports}from transformers import pipeline

solver = pipeline("puzzle-solving", model="{repository}"{trust})
board = {board}
print(solver(board))
```

A board is written row by row: {symbols}.
{shell}"""
_OWN_CODE = """The model's code is in this repository: look at it, and pin what you have looked at with `revision=`.
Where `air_hf` is imported before, its own code is used, and `trust_remote_code=True` can be left out."""
_NO_CODE = "The code is in the package `air_hf`; `air-hf publish` adds it to what it publishes."
_SHELL = """From a shell, where `air_hf` is installed:

```console
$ air-hf solve --model {repository} {board}
```
"""
_USE_WITHOUT_SYMBOLS = """```python
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained("{repository}", trust_remote_code=True)
ids = torch.ones(1, model.config.seq_len, dtype=torch.long)  # one board of symbol ids
print(model.solve(ids).sequences[0])
```

The model's code is in this repository: look at it, and pin what you have looked at with `revision=`. What its symbols
stand for is not recorded, so it has no tokenizer.
"""


def write_model_card(
    folder: str | Path, repository: str | None = None, options: CardOptions | None = None, more: str = ""
) -> None:
    """Writes `README.md`, the training curve, and `.eval_results/*.yaml` where a whole benchmark was scored.

    Args:
        folder (`str` or `Path`): a checkpoint.
        repository (`str`, *optional*): where it will be; the folder itself, as "." in its examples, if None.
        options ([`CardOptions`], *optional*): licence, address and tags.
        more (`str`): a further section, in Markdown.

    Raises:
        CheckpointError: the folder is no checkpoint, or its records are damaged.
    """
    folder, options = Path(folder), options or CardOptions()
    config, records = read_config(folder), read_records(folder)
    puzzle = puzzle_of(config)
    variant = str(records.arguments.get("variant") or records.training.get("variant") or find_variant(config))
    name = repository.split("/")[-1] if repository else f"{variant} on {config.puzzle or f'{config.seq_len} cells'}"
    curves = records.training.get("curves") or {}
    has_curve = bool(curves.get("loss")) and _draw_curve(folder / _CURVE, curves)
    example = _example(puzzle, records)
    text = _TEXT.format(
        metadata=_metadata(config, records, variant, name, options),
        name=name,
        summary=_summary(config, puzzle, records, variant, options),
        board=_drawing(puzzle, example),
        use=_use(repository or ".", puzzle, example, (folder / "modeling_air.py").is_file()),
        place=_place(config, variant),
        architecture=_architecture(config),
        training=_training(published_record(TRAINING_FACTS, records.training), has_curve),
        results=_results(records),
        more=more,
        boards=_boards(config),
        check=(
            "The rules tell:\n  the pipeline's `valid` checks every answer."
            if puzzle is not None and puzzle.rules.proves_answers
            else "No rules\n  are known that could tell."
        ),
        limits=_limits(records),
    )
    write_text(folder / "README.md", text)
    _write_eval_results(folder, records)


def find_variant(config: AIRConfig) -> str:
    """The paper's name for what a configuration computes: of all its choices, or else of how input enters the updates.

    "a mixture" where that, too, has no name.
    """
    roles = ("l_injections", "h_injections", "input_operator", "level_token", "shared_network")
    for decisive in ((*roles, "mixer", "gradient", "halting"), roles):
        for name, fields in VARIANTS.items():
            expected = AIRConfig(**fields)
            if all(getattr(config, field) == getattr(expected, field) for field in decisive):
                return name
    return "a mixture"


def _metadata(config: AIRConfig, records: Records, variant: str, name: str, options: CardOptions) -> str:
    dataset, scores = hub_name(records.arguments), records.scores
    family = family_name(config.puzzle) if config.puzzle else "puzzle"
    results = []
    if scores:
        setting = f"{scores['num_segments']} segments"
        if not records.benchmark:
            setting = f"{scores['num_puzzles']:,} puzzles of {records.source}, {setting}"
        measured = {"exact_accuracy": "Exact accuracy", "cell_accuracy": "Cell accuracy", "valid_rate": "Valid answers"}
        for metric, title in measured.items():
            if scores[metric] is None:  # a puzzle without rules
                continue
            results.append(
                EvalResult(
                    task_type="puzzle-solving",
                    dataset_type=records.benchmark or config.puzzle or "unknown",
                    dataset_name=records.benchmark or records.source,
                    dataset_config=scores.get("dataset_config") if records.benchmark else None,
                    dataset_split="test" if records.benchmark else None,
                    dataset_revision=scores.get("dataset_revision") if records.benchmark else None,
                    metric_type=metric,
                    metric_name=f"{title} ({setting})",
                    metric_value=scores[metric],
                )
            )
    tags = [
        "air",
        variant,
        family,
        "puzzle",
        "reasoning",
        "recurrent",
        "custom_code",
        "arxiv:2605.17811",
        *options.tags,
    ]
    data = ModelCardData(
        license=options.license,
        library_name="transformers",
        pipeline_tag="other",
        tags=list(dict.fromkeys(tags)),
        datasets=[dataset] if dataset else None,
        model_name=name,
        eval_results=results or None,
    )
    return data.to_yaml()


def _boards(config: AIRConfig) -> str:
    if config.fits_any_board:
        return (
            f"Trained on {config.puzzle}; the weights fit boards of any size of that family (`--puzzle NAME`), which "
            "says nothing about how well they solve them."
        )
    return f"Boards of exactly {config.seq_len} cells ({config.puzzle or 'of no recorded puzzle'}); nothing else."


def _summary(config: AIRConfig, puzzle: Puzzle | None, records: Records, variant: str, options: CardOptions) -> str:
    what = f"solves {config.puzzle} boards" if config.puzzle else f"answers boards of {config.seq_len} cells"
    text = f"A recurrent Transformer of {config.num_weights:,} parameters that {what} ({variant})."
    if puzzle is not None:
        text += f" {puzzle.description}"
    if records.scores:
        text += (
            f" It solves **{records.scores['exact_accuracy']:.1%}** of {records.tested_on}, "
            f"in {records.scores['num_segments']} segments."
        )
    if records.training.get("finished") is False:
        text += f"\n\n**Unfinished:** {_progress(records.training)}; the run goes on, and so will its scores."
    if options.project_url:
        text += f"\n\nProject: <{options.project_url}>"
    return text


def _progress(training: dict) -> str:
    return f"these are the weights after step {training['step']:,} of {training['arguments'].get('max_steps', 0):,}"


def _example(puzzle: Puzzle | None, records: Records) -> str | None:
    """A test puzzle where one is recorded, else the family's own example."""
    if puzzle is None:
        return None
    recorded = records.training.get("data", {}).get("test", {}).get("example")
    return recorded if recorded and len(recorded) == puzzle.num_cells else puzzle.example


def _drawing(puzzle: Puzzle | None, example: str | None) -> str:
    """The example as people look at it."""
    if example is None:
        return ""
    question = puzzle.parse(example)
    lines = puzzle.draw_text(question, question)
    return "\n".join(["```text", *(line.rstrip() for line in lines), "```", "", ""])


def _use(repository: str, puzzle: Puzzle | None, example: str | None, has_code: bool) -> str:
    if puzzle is None:
        return _USE_WITHOUT_SYMBOLS.format(repository=repository)
    board, shell = repr(example), _SHELL.format(repository=repository, board=shlex.quote(example))
    if len(example) > _LONGEST_LINE:
        rows = [example[start : start + puzzle.columns] for start in range(0, len(example), puzzle.columns)]
        board, shell = "\n".join(["(", *(f"    {row!r}" for row in rows), ")"]), ""
    return _USE.format(
        repository=repository,
        board=board,
        symbols=puzzle.symbols_help,
        shell=shell,
        imports="" if has_code else "import air_hf\n",
        trust=", trust_remote_code=True" if has_code else "",
        code=_OWN_CODE if has_code else _NO_CODE,
    )


def _place(config: AIRConfig, variant: str) -> str:
    kind = "symmetric" if config.l_injections == config.h_injections else "asymmetric"
    network = "One network computes both updates." if config.shared_network else "Each update has its own network."
    return (
        f"`{variant}`: the encoded question enters the L-update {config.l_injections}× and the H-update "
        f"{config.h_injections}×, which is {kind} in the sense of AIR ([2605.17811]"
        f"(https://arxiv.org/abs/2605.17811)). The paper's variants differ in these numbers, in the operator applied "
        f"to the input (here {config.input_operator}) and in a token that names the update (here "
        f"{config.level_token}). {network}"
    )


def _architecture(config: AIRConfig) -> str:
    forward, step = config.estimate_flops(), config.estimate_flops(with_gradient=True)
    rows = {
        "parameters": f"{config.num_weights:,} (of these {config.num_vocabulary_weights:,} in and out of "
        "the vocabulary)",
        "hidden size, layers, heads": f"{config.hidden_size}, {config.num_hidden_layers}, "
        f"{config.num_attention_heads if config.mixer == 'attention' else f'none ({_MIXING[config.mixer]})'}",
        "H-cycles, L-cycles of a segment": f"{config.h_cycles}, {config.l_cycles}",
        "segments": f"at most {config.max_segments} in training",
        "halting, gradient": f"{config.halting}, {config.gradient}",
        "positions, prefix": f"{config.position_embedding}, {config.prefix_len}",
        "FLOPs of a segment, one board": f"{forward:,} forward, {step:,} in training (matrix products)",
    }
    return _table(("", ""), rows.items())


def _training(training: dict, has_curve: bool) -> str:
    if "arguments" not in training:
        named = ("step", "source_file", "source_sha256")
        known = ", ".join(f"{name} {value}" for name, value in training.items() if name in named)
        return f"How these weights were trained is not recorded here{f' ({known})' if known else ''}.\n"
    arguments, data = training["arguments"], training["data"]
    train, test = data["train"], data["test"]
    lines = [f"Unfinished: {_progress(training)}.", ""] if training.get("finished") is False else []
    lines += [
        f"{training['step']:,} steps (one segment of {arguments.get('batch_size')} boards each), "
        f"{training['minutes']:.1f} minutes on {training['hardware']}, {training['processes']} process"
        f"{'es' if training['processes'] > 1 else ''}, seed {arguments.get('seed')}.",
        "",
        f"Trained on {train['puzzles']:,} {train['puzzle']} puzzles, SHA-256 of the lines `question,answer` "
        f"`{train['sha256']}`; scored on {test['puzzles']:,}, `{test['sha256']}`.",
        "",
    ]
    if has_curve:
        lines += [f"![Loss and accuracy over the training steps]({_CURVE})", ""]
    first = [(name, arguments[name]) for name in _RECIPE_ORDER if name in arguments]
    others = [(name, value) for name, value in arguments.items() if name not in _RECIPE_ORDER and value is not None]
    lines += [_table(("recipe", ""), first + others), ""]
    lines += ["Versions: " + ", ".join(f"{name} {value}" for name, value in training["versions"].items()) + ".", ""]
    return "\n".join(lines)


def _results(records: Records) -> str:
    scores = records.scores
    if not scores:
        return "Not measured.\n"
    ema = {None: "unknown whether averaged", 0: "raw weights"}.get(scores.get("ema"), f"EMA {scores.get('ema')}")
    rows = {
        "exact accuracy": f"{scores['exact_accuracy']:.1%}",
        "cell accuracy": f"{scores['cell_accuracy']:.1%} (copying the question: {scores['copy_accuracy']:.1%})",
        "valid by the rules": ("no rules to check" if scores["valid_rate"] is None else f"{scores['valid_rate']:.1%}"),
        "halting accuracy": f"{scores['halting_accuracy']:.1%}",
        "stopping when q_halt says so": f"{scores['halting_exact_accuracy']:.1%} exact after "
        f"{scores['mean_segments']:.2f} segments",
        "measured on": f"{records.tested_on}, {scores['num_segments']} segments, {ema}, {scores['precision']}",
    }
    if scores.get("data_sha256"):
        rows["SHA-256 of the lines `question,answer`"] = f"`{scores['data_sha256']}`"
    return _table(("", ""), rows.items()) + "\n"


def _limits(records: Records) -> str:
    lines = []
    if records.arguments:
        lines.append("- One run with one seed; other seeds give other numbers.")
    if records.scores and records.scores["exact_accuracy"] == 0:
        lines.append("- It solved none of its test puzzles. It is published to be studied, not to be used.")
    return "".join(f"{line}\n" for line in lines)


def _table(header: tuple[str, str], rows) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)])


def _write_eval_results(folder: Path, records: Records) -> None:
    """Today's format of results refers to a data set on the Hub, so it is for whole benchmarks only."""
    path, scores = folder / ".eval_results" / "exact_accuracy.yaml", records.scores
    if not records.benchmark:
        path.unlink(missing_ok=True)
        return
    entry = EvalResultEntry(
        dataset_id=records.benchmark,
        task_id=scores.get("dataset_config") or "default",
        value=round(100 * scores["exact_accuracy"], 2),
        dataset_revision=scores.get("dataset_revision"),
        date=datetime.now(UTC).date().isoformat(),
        notes=f"exact accuracy in %, {scores['num_puzzles']:,} puzzles, {scores['num_segments']} segments, "
        f"EMA {scores.get('ema')}",
    )
    write_text(path, safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False))


def _draw_curve(path: Path, curves: dict[str, list]) -> bool:
    """Whether there is a picture: matplotlib is an optional dependency, and a card does without."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curves["loss"], strict=True), color="tab:gray", linewidth=1, label="training loss")
    axes.set(xlabel="training step", ylabel="loss", ylim=(0, None))
    if curves.get("evaluations"):
        steps, exact, cells = zip(*curves["evaluations"], strict=True)
        right = axes.twinx()
        right.plot(steps, exact, color="tab:green", marker="o", markersize=3, label="test, exact")
        right.plot(steps, cells, color="tab:blue", marker="o", markersize=3, label="test, cells")
        right.set(ylabel="accuracy", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")
    return True
