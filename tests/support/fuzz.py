"""Damaged inputs, drawn from a seed, and what may become of them.

A case is one damaged input and the call that takes it. Three outcomes are allowed: the call gives what an independent
reading of the damaged input gives ("right"), or refuses it with an error of the ValueError family, or, for a command,
with exit status 2 and one line, in which the value that is wrong, its field or its file is named ("named"). Everything
else is a defect: another exception, words that name nothing, a result that the input does not say, or more than LIMIT
seconds.
"""

import argparse
import contextlib
import io
import json
import pickle
import random
import signal
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from air_hf import AIRConfig, cli
from air_hf.data import load_puzzles
from air_hf.hub import load_model, load_tokenizer
from air_hf.hub.records import read_records
from air_hf.puzzles import get_puzzle
from air_hf.runs.arguments import read_recipe

LIMIT = 20  # seconds
PUZZLE = get_puzzle("sudoku-4x4")
SOLUTIONS = ("1234341221434321", "2143432112343412", "4321214334121234")
HTML = b"<!doctype html><html><head><title>Sign in</title></head><body>403</body></html>"


@dataclass
class Case:
    """One input.

    Args:
        name (`str`): what was done to it, for messages.
        call (`Callable[[], Any]`): gives the result, or raises.
        is_right (`Callable[[Any], bool]`): whether the result is what the damaged input says.
        mentions (`tuple[str, ...]`): words of which an error must have one: the value, its field, or its file.
    """

    name: str
    call: Callable[[], Any]
    is_right: Callable[[Any], bool]
    mentions: tuple[str, ...]


class TooSlow(BaseException):
    """Not an Exception, so that no code under test can catch it."""


def find_defect(case: Case) -> str | None:
    """What is wrong about a case's outcome; None if it is right or named."""
    before = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(LIMIT)
    try:
        # transformers and argparse speak to standard error, which is not what is looked at here.
        with contextlib.redirect_stderr(io.StringIO()) as shown, contextlib.redirect_stdout(io.StringIO()):
            result = case.call()
    except TooSlow:
        return f"stuck: no end after {LIMIT} seconds"
    except SystemExit as stopped:
        return _check_command(case, stopped.code, shown.getvalue())
    except (ValueError, StrictDataclassError) as error:
        return _check_words(case, str(error))
    except BaseException as error:  # also what a library in Rust panics with
        return f"raw: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None if case.is_right(result) else "silent: it was taken for something else"


_PROGRESS = ("Loading weights", "puzzle/s")


def _stop(*_) -> None:
    raise TooSlow


def _check_command(case: Case, status: Any, shown: str) -> str | None:
    lines = [line for line in shown.splitlines() if line.strip() and not any(bar in line for bar in _PROGRESS)]
    if status == 2:
        told = [line for line in lines if ": error: " in line]
        if len(told) != 1 or lines != told:
            return f"unclear: exit status 2 with {len(lines)} lines: {shown[:300]!r}"
        return _check_words(case, told[0])
    if status not in (0, 1):
        return f"raw: exit status {status}: {shown[-300:]!r}"
    return None if case.is_right(status) else f"silent: exit status {status}"


def _check_words(case: Case, words: str) -> str | None:
    if not words.strip():
        return "unclear: an error without words"
    for advice in ("trust_remote_code", "weights_only=False", "ignore_mismatched_sizes", "allow_pickle"):
        if advice in words:
            return f"unclear: it advises {advice}: {words[:300]}"
    if not any(word in words for word in case.mentions if word):
        return f"unclear: it names none of {', '.join(case.mentions)}: {words[:300]}"
    return None


def cli_case(name: str, words: list, mentions: tuple[str, ...], allowed: tuple[int, ...] = (0, 1)) -> Case:
    """A command as a user types it."""
    return Case(name, lambda: cli.main([str(word) for word in words]), lambda status: status in allowed, mentions)


# Bytes.


def damage_bytes(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage that happens to any file."""
    kind = rng.choice(["empty", "cut", "flip", "zeros", "insert", "remove", "twice", "html", "utf-16", "bom", "pickle",
                       "zip", "random", "nul"])  # fmt: skip
    place = rng.randrange(len(data) + 1)
    size = rng.choice([1, 2, 8, 100])
    changed = {
        "empty": lambda: b"",
        "cut": lambda: data[:place],
        "flip": lambda: _flip(data, rng, size),
        "zeros": lambda: data[:place] + bytes(size) + data[place + size :],
        "insert": lambda: data[:place] + rng.randbytes(size) + data[place:],
        "remove": lambda: data[:place] + data[place + size :],
        "twice": lambda: data + data,
        "html": lambda: HTML,
        "utf-16": lambda: data.decode("latin-1").encode("utf-16"),
        "bom": lambda: b"\xef\xbb\xbf" + data,
        "pickle": lambda: pickle.dumps({"weights": [1.0, 2.0]}),
        "zip": lambda: _zip(data),
        "random": lambda: rng.randbytes(rng.randrange(1, 200)),
        "nul": lambda: data[:place] + b"\0" + data[place:],
    }[kind]()
    return kind, changed


def _flip(data: bytes, rng: random.Random, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data[:100])
    return buffer.getvalue()


def odd_value(rng: random.Random) -> Any:
    """A value where another one was expected, as JSON and YAML can write it."""
    return rng.choice(
        [None, True, False, 0, -1, 1, 2**31, 2**64, 10**30, -0.5, 1e308, float("nan"), float("inf"), "", "x", "0", "٤",
         "a\0b", "\ud7ff", "../..", "/etc/passwd", [], [1], {}, {"a": 1}, "float99", "9" * 5000, _nested(50)]
    )  # fmt: skip


def _nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def damage_fields(fields: dict, rng: random.Random) -> tuple[str, dict]:
    """Damage to an object: an entry gone, of another value, under another name; or one too many."""
    name, kind = rng.choice(sorted(fields)), rng.choice(["drop", "value", "rename", "add", "inner"])
    changed = dict(fields)
    if kind == "drop":
        del changed[name]
    elif kind == "value":
        changed[name] = odd_value(rng)
    elif kind == "rename":
        changed[_misspell(name, rng)] = changed.pop(name)
    elif kind == "add":
        changed[rng.choice(_ADDED)] = odd_value(rng)
    elif isinstance(fields[name], dict) and fields[name]:
        inner, changed[name] = damage_fields(fields[name], rng)
        return f"{name}: {inner}", changed
    else:
        changed[name] = [fields[name]]
    return f"{kind} {name}", changed


def changed_names(before: dict, after: dict) -> tuple[str, ...]:
    """The entries that only one of two objects has, or that they have of other values."""
    missing = object()
    return tuple(name for name in {**before, **after} if before.get(name, missing) is not after.get(name, missing))


_ADDED = ("schedule", "to_dict", "num_labels", "use_return_dict", "rope_scaling", "layer_types", "x", "torch_dtype",
          "quantization_config", "_name_or_path", "id2label")  # fmt: skip


def _misspell(name: str, rng: random.Random) -> str:
    place = rng.randrange(len(name))
    return rng.choice([name.upper(), name + "s", name[:place] + name[place + 1 :], name.replace("_", "-")]) or "x"


# Checkpoints.


def checkpoint_case(folder: Path, rng: random.Random) -> Case:
    """One damaged file of a checkpoint, which `folder` becomes a copy of."""
    return rng.choice([weights_case, config_case, tokenizer_case, records_case])(folder, rng)


def weights_case(folder: Path, rng: random.Random) -> Case:
    path = folder / "model.safetensors"
    if rng.random() < 0.4:
        name, data = damage_bytes(path.read_bytes(), rng)
        path.write_bytes(data)
    elif rng.random() < 0.3:
        name = damage_header(path, rng)
    else:
        name = damage_tensors(path, rng)
    mentions = (path.name, folder.name)
    return Case(f"weights: {name}", lambda: load_model(folder), lambda model: holds_weights(model, path), mentions)


def damage_header(path: Path, rng: random.Random) -> str:
    """A header that is JSON and says something else than before."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    tensor = rng.choice([name for name in header if name != "__metadata__"])
    kind, header[tensor] = damage_fields(header[tensor], rng)
    text = json.dumps(header).encode()
    size = rng.choice([len(text), len(text), len(text), len(text) + 8, 2**62])
    path.write_bytes(struct.pack("<Q", size) + text + data[8 + struct.unpack("<Q", data[:8])[0] :])
    return f"header of {tensor}: {kind}"


def damage_tensors(path: Path, rng: random.Random) -> str:
    """A good file of other tensors."""
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    kind = rng.choice(["drop", "rename", "more", "transpose", "flatten", "int8", "int64", "bool", "nan", "inf", "half",
                       "double", "complex", "empty"])  # fmt: skip
    tensor = tensors[name].clone()
    place = rng.randrange(tensor.numel())
    if kind in ("nan", "inf"):
        tensor.view(-1)[place] = float(kind)
    changed = {
        "drop": {}, "rename": {_misspell(name, rng): tensor}, "more": {name: tensor, f"{name}.more": tensor},
        "transpose": {name: tensor.unsqueeze(0).mT.contiguous()}, "flatten": {name: tensor.flatten().repeat(2)},
        "int8": {name: tensor.to(torch.int8)}, "int64": {name: tensor.to(torch.int64)},
        "bool": {name: tensor > 0}, "half": {name: tensor.half()}, "double": {name: tensor.double()},
        "complex": {name: tensor.to(torch.complex64)}, "empty": {name: tensor.flatten()[:0]},
    }.get(kind, {name: tensor})  # fmt: skip
    del tensors[name]
    save_file(tensors | {key: value.clone() for key, value in changed.items()}, path, {"format": "pt"})
    return f"{kind} {name}"


def holds_weights(model, path: Path) -> bool:
    """Whether a model has exactly the numbers of a file, and nothing that is no number."""
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    ours = model.state_dict()
    return ours.keys() == found.keys() and all(
        torch.equal(ours[name], tensor.to(ours[name].dtype)) and bool(tensor.isfinite().all())
        for name, tensor in found.items()
    )


def config_case(folder: Path, rng: random.Random) -> Case:
    path = folder / "config.json"
    name = damage_json(path, rng)
    return Case(f"config.json: {name}", lambda: load_model(folder), lambda model: says(model.config, path),
                ("config.json", "weights", folder.name))  # fmt: skip


def damage_json(path: Path, rng: random.Random) -> str:
    if rng.random() < 0.4:
        name, data = damage_bytes(path.read_bytes(), rng)
        path.write_bytes(data)
    elif rng.random() < 0.1:
        name, depth = "nested", rng.choice([500, 100_000])
        path.write_text('{"a":' * depth + "1" + "}" * depth)
    elif rng.random() < 0.1:
        name = "other value"
        path.write_text(json.dumps(odd_value(rng)))
    else:
        name, fields = damage_fields(json.loads(path.read_text()), rng)
        path.write_text(json.dumps(fields))
    return name


def says(config: AIRConfig, path: Path) -> bool:
    """Whether a configuration has the value of every field in a file, and the file has every field."""
    fields = json.loads(path.read_text())
    own = [name for name in AIRConfig.__annotations__ if getattr(AIRConfig, name) is not None]
    return all(name in fields and getattr(config, name) == fields[name] for name in own)


def tokenizer_case(folder: Path, rng: random.Random) -> Case:
    name = damage_json(folder / "tokenizer.json", rng)
    config = AIRConfig.from_pretrained(folder)
    return Case(f"tokenizer.json: {name}", lambda: load_tokenizer(folder, config), writes_boards, ("tokenizer.json",))


def writes_boards(tokenizer) -> bool:
    """Whether boards become the ids of the rules, and come back."""
    ids = [tokenizer(board).input_ids for board in (*SOLUTIONS, "." * 16, "0" * 16)]
    expected = [PUZZLE.parse(board).tolist() for board in (*SOLUTIONS, "." * 16, "0" * 16)]
    return ids == expected and [tokenizer.decode(board) for board in ids[:3]] == list(SOLUTIONS)


def records_case(folder: Path, rng: random.Random) -> Case:
    """A damaged record; where it is read, it holds what the card calculates with."""
    name = rng.choice(["training.json", "evaluation.json"])
    kind = damage_json(folder / name, rng)

    def card() -> str:
        from air_hf.hub.model_card import write_model_card

        write_model_card(folder, "org/name")
        return (folder / "README.md").read_text()

    return Case(f"{name}: {kind}", card, lambda text: str(folder.parent) not in text and bool(read_records(folder)),
                (name,))  # fmt: skip


# Files of puzzles, recipes and command lines.


def good_csv(rng: random.Random, rows: int = 6) -> str:
    """Rows of `source,question,answer,rating`."""
    lines = ["source,question,answer,rating"]
    for _ in range(rows):
        answer = rng.choice(SOLUTIONS)
        question = "".join(symbol if rng.random() < 0.5 else "." for symbol in answer)
        lines.append(f"test,{question},{answer},{rng.randrange(9)}")
    return "\n".join(lines) + "\n"


def data_case(folder: Path, rng: random.Random) -> Case:
    path = folder / "puzzles.csv"
    text = good_csv(rng)
    kind = rng.choice(["bytes", "symbol", "board", "column", "quote", "cr", "row", "odd digits"])
    place = rng.randrange(len(text))
    data = text.encode()
    if kind == "bytes":
        kind, data = damage_bytes(data, rng)
    else:
        text = {
            "symbol": lambda: text[:place] + rng.choice("0123456789#SGo ×٤\t") + text[place + 1 :],
            "board": lambda: text.replace(rng.choice(SOLUTIONS), rng.choice(["", "1", "1" * 81, "1" * 16, "x" * 16])),
            "column": lambda: text.replace(rng.choice(["question", "answer"]), rng.choice(["", "x", "answer"]), 1),
            "quote": lambda: text[:place] + '"' + text[place:],
            "cr": lambda: text[:place] + "\r" + text[place:],
            "row": lambda: text + rng.choice(["\n", ",\n", "a,b\n", "a,b,c,d,e\n", ",,,\n", "\n\n\n"]),
            "odd digits": lambda: text.replace("1", "١"),
        }[kind]()
        data = text.encode()
    path.write_bytes(data)
    return Case(f"puzzles.csv: {kind}", lambda: load_puzzles(path, "sudoku-4x4"), lambda puzzles: agrees(puzzles, data),
                ("puzzles.csv",))  # fmt: skip


def agrees(puzzles, data: bytes) -> bool:
    """Whether every board that was read is one of the file's, in order."""
    text = data.decode("utf-8-sig").replace("\r", "").replace("0", ".")
    position = 0
    for question, answer in zip(puzzles.questions, puzzles.answers, strict=True):
        for board in (question, answer):
            written = PUZZLE.format(board).replace("?", "")
            found = text.replace("\n", "").find(written, 0)
            if found < 0:
                return False
            position = max(position, found)
    return True


RECIPE = {"variant": "Lx_H", "train_data": "train.csv", "test_data": "test.csv", "max_steps": 10, "batch_size": 8,
          "learning_rate": 0.001, "warmup_steps": 2, "ema_decay": 0.99, "hidden_size": 32, "num_attention_heads": 2,
          "mixed_precision": "no", "augment": True, "compile": "off", "seed": 0,
          "halt_exploration_prob": 0.1}  # fmt: skip


def recipe_case(folder: Path, rng: random.Random) -> Case:
    path, mentions = folder / "recipe.yaml", ("recipe.yaml", *RECIPE)  # bytes may damage any field
    if rng.random() < 0.4:
        name, data = damage_bytes(yaml.safe_dump(RECIPE).encode(), rng)
        path.write_bytes(data)
    elif rng.random() < 0.2:
        name = rng.choice(["nested", "bomb", "object", "anchor", "tab"])
        bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
        )
        path.write_text({
            "nested": "a: " + "[" * 100_000, "bomb": bomb, "anchor": "a: &a\n  b: *a\n", "tab": "\tseed: 1\n",
            "object": "seed: !!python/object/apply:os.system ['true']\n",
        }[name])  # fmt: skip
    else:
        name, fields = damage_fields(RECIPE, rng)
        mentions = (*changed_names(RECIPE, fields), "recipe.yaml is")
        path.write_text(yaml.safe_dump(fields, allow_unicode=True))
    typed = argparse.Namespace(config=str(path))
    return Case(f"recipe.yaml: {name}", lambda: read_recipe(typed), lambda parsed: follows(parsed, path), mentions)


def follows(parsed, path: Path) -> bool:
    """Whether the arguments are what the recipe says."""
    arguments, model = parsed
    known = {**model, **vars(arguments)}
    recipe = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    return all(value is None or _is_same(known.get(name), value) for name, value in recipe.items())


def _is_same(ours: Any, value: Any) -> bool:
    """Whether a word of YAML means an argument's value."""
    if ours == value or str(ours) == str(value):
        return True
    if isinstance(ours, bool):
        return str(value).lower() in ("0", "1", "yes", "no", "y", "n", "t", "f", "true", "false")
    if isinstance(value, bool):
        return ours in ("on", "off", "yes", "no")
    return isinstance(ours, (int, float)) and isinstance(value, str) and float(value) == ours


_ODD = ("", " ", "-1", "0", "1e9", "9" * 30, "nan", "inf", "٤", "a\tb", "../x", "/dev/null", "maze-٤x٤", "None",
        "9999x9999", "sudoku-0x0", "maze-1x1", "é", "x" * 300, "sudoku-4x4\n", "\ud800", "{}", "-", "a\0b")  # fmt: skip


def command_case(folder: Path, rng: random.Random) -> Case:
    """A command with one odd value; `folder` is a good checkpoint, and nothing reaches for a Hub."""
    odd = rng.choice(_ODD)
    board = SOLUTIONS[0].replace("1", ".")
    solve = ["solve", "--model", folder, board]
    commands = {
        "solve board": ["solve", "--model", folder, "--", odd],
        "solve model": ["solve", "--model", odd, board],
        "solve batch": [*solve, "--batch_size", odd],
        "solve segments": [*solve, "--max_segments", odd],
        "solve threshold": [*solve, "--early_stop", "--q_halt_threshold", odd],
        "solve dtype": [*solve, "--dtype", odd],
        "solve device": [*solve, "--device", odd],
        "solve output": [*solve, "--output", odd],
        "publish checkpoint": ["publish", "--", odd, "org/name"],
        "publish repository": ["publish", folder, "--timeout", "0.001", "--", odd],
        "publish timeout": ["publish", folder, "org/name", "--timeout", odd],
        "publish license": ["publish", folder, "org/name", "--timeout", "0.001", "--license", odd],
        "publish project_url": ["publish", folder, "org/name", "--timeout", "0.001", "--project_url", odd],
        "publish-sweep": ["publish-sweep", "--timeout", "0.001", "--", odd, "org"],
        "convert file": ["convert", "--seq_len", "16", "--", odd, folder / "out"],
        "convert puzzle": ["convert", folder / "config.json", folder / "out", "--puzzle", odd],
        "convert seq_len": ["convert", folder / "config.json", folder / "out", "--seq_len", odd],
        "evaluate data": ["evaluate", "--checkpoint", folder, "--data", odd],
        "evaluate checkpoint": ["evaluate", "--checkpoint", odd, "--data", "puzzles.csv"],
        "evaluate limit": ["evaluate", "--checkpoint", folder, "--data", "puzzles.csv", "--limit", odd],
        "train config": ["train", "--config", odd],
        "train data": ["train", "--train_data", odd, "--test_data", odd],
        "train steps": ["train", "--train_data", "none.csv", "--test_data", "none.csv", "--max_steps", odd],
        "train seed": ["train", "--train_data", "none.csv", "--test_data", "none.csv", "--seed", odd],
        "train variant": ["train", "--train_data", "none.csv", "--test_data", "none.csv", "--variant", odd],
        "sweep seeds": ["sweep", "--task", "sudoku", "--output", "out", "--print", "--variants", "hrm", "--seeds", odd],
        "sweep variants": ["sweep", "--task", "sudoku", "--output", "out", "--print", "--variants", odd],
        "recipes": ["recipes", "--", odd],
        "unknown command": [odd],
    }  # fmt: skip
    name = rng.choice(sorted(commands))
    # what is wrong, too, or out of reach
    others = {"none.csv", "puzzles.csv", "org/name"} & set(map(str, commands[name]))
    others |= {"all_config.yaml"} if name.startswith("convert") else {"stdin"} if odd == "-" else set()
    shown = repr(odd) if odd in ("", " ", "-", "0") else repr(odd)[1:-1][:20]
    said = " ".join(odd.splitlines())
    mentions = (shown, f"{said} does not exist", f"folder {said}", name.split()[-1], *others)
    mentions += (said.split("-")[-1],) if "x" in odd else ()  # the size of a board
    return cli_case(f"{name} {odd[:20]!r}", commands[name], mentions)


ROOMS: dict[str, Callable[[Path, random.Random], Case]] = {
    "checkpoint": checkpoint_case,
    "data": data_case,
    "recipe": recipe_case,
    "command": command_case,
}


def write_records(folder: Path) -> None:
    """`training.json` and `evaluation.json` as a finished run leaves them."""
    split = {"puzzle": PUZZLE.name, "puzzles": 40, "sha256": "ab" * 32, "example": "." * 16}
    training = {
        "step": 10, "ema": 0.99, "minutes": 1.5, "hardware": "CPU", "processes": 2, "versions": {"torch": "2"},
        "arguments": {"variant": "Lx_H", "max_steps": 10, "seed": 3, "batch_size": 8, "dataset": None},
        "data": {"train": split, "test": split}, "finished": True,
    }  # fmt: skip
    scores = {"exact_accuracy": 0.5, "cell_accuracy": 0.75, "copy_accuracy": 0.25, "valid_rate": 0.5, "ema": 0.99,
              "halting_accuracy": 1.0, "halting_exact_accuracy": 0.5, "mean_segments": 2.0, "num_puzzles": 7,
              "num_segments": 4, "precision": "float32", "puzzle": PUZZLE.name, "data": "test.csv"}  # fmt: skip
    (folder / "training.json").write_text(json.dumps(training))
    (folder / "evaluation.json").write_text(json.dumps(scores))
