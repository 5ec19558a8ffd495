"""The card of a checkpoint, written from its own files: `config.json`, `training.json` and `evaluation.json`."""

import json
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from yaml import safe_dump

from air_hf.hub.loading import EVALUATION, TRAINING_FACTS, CheckpointError
from air_hf.modeling import AIRConfig
from air_hf.variants import VARIANTS

_CURVE = "images/training.png"
_LONGEST_EXAMPLE = 256  # symbols
_RECIPE_ORDER = ("variant", "max_steps", "batch_size", "learning_rate", "warmup_steps", "min_lr_ratio", "weight_decay")
_TEXT = """---
{metadata}
---

# {name}

{summary}

## Use it

```python
import air_hf  # pip install air-hf; without it, pass trust_remote_code=True and pin revision=
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("{repository}")
tokenizer = AutoTokenizer.from_pretrained("{repository}")
ids = tokenizer({board}, return_tensors="pt").input_ids
print(tokenizer.decode(model.solve(ids).sequences[0]))
```

Or, code included, in one line, with the answer checked by the rules:

```python
from transformers import pipeline

solver = pipeline("puzzle-solving", model="{repository}", trust_remote_code=True)
print(solver({board}))
```

From a shell: `air-hf solve --model {repository} BOARD`. A board is written row by row, {symbols}.

## The model

{place}

{architecture}

## Training

{training}
## Results

{results}
## Limits

- Boards of exactly {cells} cells ({puzzle}); nothing else.
- An answer may be wrong, and the halting score, from which the confidence comes, may be wrong about it. The rules
  tell: the pipeline's `valid` checks every answer.
{limits}
## Citation

```bibtex
@misc{{air, title = {{Asymmetric Input Recurrence}}, url = {{https://arxiv.org/abs/2605.17811}}}}
@misc{{trm, title = {{Tiny Recursive Model}}, url = {{https://arxiv.org/abs/2510.04871}}}}
@misc{{hrm, title = {{Hierarchical Reasoning Model}}, url = {{https://arxiv.org/abs/2506.21734}}}}
```
"""


def write_model_card(folder: str | Path, repository: str | None = None) -> None:
    """Writes `README.md`, the training curve, and `.eval_results/*.yaml` where the test set is on the Hub.

    Args:
        folder (`str` or `Path`): a checkpoint.
        repository (`str`, *optional*): where it will be; `ORG/NAME` if None.

    Raises:
        CheckpointError: the folder is no checkpoint.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no checkpoint: config.json is missing")
    config = AIRConfig.from_pretrained(folder)
    training, scores = (_read_json(folder / name) for name in (TRAINING_FACTS, EVALUATION))
    repository = repository or "ORG/NAME"
    variant = (training.get("arguments") or training).get("variant") or find_variant(config)
    name = repository.split("/")[-1] if repository != "ORG/NAME" else f"{variant} on {config.puzzle}"
    has_curve = bool(training.get("curves", {}).get("loss")) and _draw_curve(folder / _CURVE, training["curves"])
    text = _TEXT.format(
        metadata=_metadata(config, training, scores, variant, name),
        name=name,
        repository=repository,
        summary=_summary(config, scores, variant),
        board=_example_board(config, training),
        symbols=_symbols(config),
        place=_place(config, variant),
        architecture=_architecture(config),
        training=_training(training, has_curve),
        results=_results(scores),
        cells=config.seq_len,
        puzzle=config.puzzle or "of no puzzle that is recorded",
        limits=_limits(training, scores),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    _write_eval_results(folder, training, scores)


def find_variant(config: AIRConfig) -> str:
    """The paper's name for what a configuration computes; "a mixture" where it has none."""
    for name, fields in VARIANTS.items():
        expected = AIRConfig(**fields)
        sizes = ("num_hidden_layers", "h_cycles", "l_cycles", "prefix_len")  # not what makes the variant
        decisive = ("l_injections", "h_injections", "input_operator", "level_token", "shared_network", "mixer",
                    "gradient", "halting")  # fmt: skip
        if all(getattr(config, field) == getattr(expected, field) for field in decisive if field not in sizes):
            return name
    return "a mixture"


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _metadata(config: AIRConfig, training: dict, scores: dict, variant: str, name: str) -> str:
    arguments = training.get("arguments", {})
    dataset = _hub_dataset(arguments)
    family = config.puzzle.split("-")[0] if config.puzzle else "puzzle"
    results = []
    if scores:
        measured = {"exact_accuracy": "Exact accuracy", "cell_accuracy": "Cell accuracy", "valid_rate": "Valid answers"}
        for metric, title in measured.items():
            results.append(
                EvalResult(
                    task_type="puzzle-solving",
                    dataset_type=dataset or config.puzzle or "unknown",
                    dataset_name=dataset or f"{config.puzzle}, {scores['num_puzzles']:,} puzzles",
                    dataset_config=arguments.get("dataset_config"),
                    dataset_split="test",
                    metric_type=metric,
                    metric_name=f"{title} ({scores['num_segments']} segments, {scores['num_puzzles']:,} puzzles)",
                    metric_value=scores[metric],
                )
            )
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["air", variant, family, "puzzle", "reasoning", "recurrent", "custom_code", "arxiv:2605.17811"],
        datasets=[dataset] if dataset else None,
        model_name=name,
        eval_results=results or None,
    )
    return data.to_yaml()


def _hub_dataset(arguments: dict) -> str | None:
    """The training set's repository; None if the puzzles came from files."""
    dataset = arguments.get("dataset")
    return dataset if dataset and dataset.count("/") == 1 and not dataset.startswith((".", "/", "~")) else None


def _summary(config: AIRConfig, scores: dict, variant: str) -> str:
    text = (
        f"A recurrent Transformer of {config.num_weights:,} parameters that solves {config.puzzle} boards ({variant})."
    )
    if scores:
        text += (
            f" It solves **{scores['exact_accuracy']:.1%}** of {scores['num_puzzles']:,} test puzzles "
            f"in {scores['num_segments']} segments."
        )
    return text


def _example_board(config: AIRConfig, training: dict) -> str:
    """A board as a Python expression: a test puzzle where one is recorded and short enough to print."""
    example = training.get("data", {}).get("test", {}).get("example")
    if example and len(example) <= _LONGEST_EXAMPLE:
        return f'"{example}"'
    if config.puzzle and config.puzzle.startswith("sudoku"):
        return f'"1" + "." * {config.seq_len - 1}'
    return f'"S" + " " * {config.seq_len - 2} + "G"'


def _symbols(config: AIRConfig) -> str:
    if config.puzzle and config.puzzle.startswith("sudoku"):
        return "`.` or `0` for a blank cell"
    return "`#` wall, space, `S` start, `G` goal; the answer marks a shortest path with `o`"


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
        "parameters": f"{config.num_weights:,} (of these {2 * config.vocab_size * config.hidden_size:,} in and out of "
        "the vocabulary)",
        "hidden size, layers, heads": f"{config.hidden_size}, {config.num_hidden_layers}, "
        f"{config.num_attention_heads if config.mixer == 'attention' else 'none (MLP over positions)'}",
        "H-cycles, L-cycles of a segment": f"{config.h_cycles}, {config.l_cycles}",
        "segments": f"at most {config.max_segments} in training",
        "halting, gradient": f"{config.halting}, {config.gradient}",
        "positions, prefix": f"{config.position_embedding}, {config.prefix_len}",
        "FLOPs of a segment, one board": f"{forward:,} forward, {step:,} in training (matrix products)",
    }
    return _table(("", ""), rows.items())


def _training(training: dict, has_curve: bool) -> str:
    if "arguments" not in training:
        known = ", ".join(f"{name} {value}" for name, value in training.items() if name in ("step", "source", "sha256"))
        return f"How these weights were trained is not recorded here{f' ({known})' if known else ''}.\n"
    arguments, data = training["arguments"], training["data"]
    train, test = data["train"], data["test"]
    lines = [
        f"{training['step']:,} steps (one segment of {arguments['batch_size']} boards each), "
        f"{training['minutes']:.1f} minutes on {training['hardware']}, {training['processes']} process"
        f"{'es' if training['processes'] > 1 else ''}, seed {arguments['seed']}.",
        "",
        f"Trained on {train['puzzles']:,} {train['puzzle']} puzzles, SHA-256 of the lines `question,answer` "
        f"`{train['sha256']}`; scored on {test['puzzles']:,}, `{test['sha256']}`.",
        "",
    ]
    if has_curve:
        lines += [f"![Loss and accuracy over the training steps]({_CURVE})", ""]
    first = [(name, arguments[name]) for name in _RECIPE_ORDER]
    others = [(name, value) for name, value in arguments.items() if name not in _RECIPE_ORDER and value is not None]
    lines += [_table(("recipe", ""), first + others), ""]
    lines += ["Versions: " + ", ".join(f"{name} {value}" for name, value in training["versions"].items()) + ".", ""]
    return "\n".join(lines)


def _results(scores: dict) -> str:
    if not scores:
        return "Not measured.\n"
    ema = {None: "unknown whether averaged", 0: "raw weights"}.get(scores["ema"], f"EMA {scores['ema']}")
    rows = {
        "exact accuracy": f"{scores['exact_accuracy']:.1%}",
        "cell accuracy": f"{scores['cell_accuracy']:.1%} (copying the question: {scores['copy_accuracy']:.1%})",
        "valid by the rules": f"{scores['valid_rate']:.1%}",
        "halting accuracy": f"{scores['halting_accuracy']:.1%}",
        "stopping when q_halt says so": f"{scores['halting_exact_accuracy']:.1%} exact after "
        f"{scores['mean_segments']:.2f} segments",
        "measured on": f"{scores['num_puzzles']:,} test puzzles, {scores['num_segments']} segments, {ema}, "
        f"{scores['precision']}",
    }
    return _table(("", ""), rows.items()) + "\n"


def _limits(training: dict, scores: dict) -> str:
    lines = []
    if training.get("arguments"):
        lines.append("- One run with one seed; other seeds give other numbers.")
    if scores and scores["exact_accuracy"] == 0:
        lines.append("- It solved none of its test puzzles. It is published to be studied, not to be used.")
    return "".join(f"{line}\n" for line in lines)


def _table(header: tuple[str, str], rows) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)])


def _write_eval_results(folder: Path, training: dict, scores: dict) -> None:
    """Today's format of results needs a data set on the Hub to refer to."""
    arguments = training.get("arguments", {})
    dataset = _hub_dataset(arguments)
    if not scores or dataset is None:
        return
    setting = f"{scores['num_puzzles']:,} puzzles, {scores['num_segments']} segments, EMA {scores['ema']}"
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=arguments.get("dataset_config") or "default",
        value=round(100 * scores["exact_accuracy"], 2),
        dataset_revision=arguments.get("dataset_revision"),
        date=datetime.now(UTC).date().isoformat(),
        notes=f"exact accuracy in %, {setting}",
    )
    path = folder / ".eval_results" / "exact_accuracy.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")


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
    if curves["evaluations"]:
        steps, exact, cells = zip(*curves["evaluations"], strict=True)
        right = axes.twinx()
        right.plot(steps, exact, color="tab:green", marker="o", markersize=3, label="test, exact")
        right.plot(steps, cells, color="tab:blue", marker="o", markersize=3, label="test, cells")
        right.set(ylabel="accuracy", ylim=(0, 1))
        right.legend(loc="center right", fontsize=8)
    axes.legend(loc="lower left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return True
