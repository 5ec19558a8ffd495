"""Further rooms of fuzz.py: answers of the Hub, provenance, states of training, generators' requests, model calls."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from air_hf import AIRConfig, AIRForPuzzleSolving
from air_hf.data import load_puzzles
from air_hf.dataset_builders.folder import PROVENANCE, check_folder, read_provenance
from air_hf.hub import load_model, transfer
from air_hf.runs import load_checkpoint
from air_hf.runs.checkpoint import MANIFEST, STATE, TENSORS
from air_hf.runs.facts import read_progress
from support.fuzz import (
    ROOMS,
    Case,
    cli_case,
    damage_bytes,
    damage_fields,
    damage_json,
    holds_weights,
    odd_value,
    says,
)
from support.hub_processes import contents
from support.hub_server import Fault, HubServer, Reply
from support.training import rewrite_manifest, small_learner


class Materials(NamedTuple):
    """What cases damage.

    Args:
        folder (`Path`): "checkpoint"; "set", a built data set; "run", a checkpoint of a run of one step.
        hub (`HubServer`): holds `puzzles/good`, the checkpoint.
        pool (`ProcessPoolExecutor`): a process that knows the Hub.
    """

    folder: Path
    hub: HubServer
    pool: ProcessPoolExecutor


# Answers of the Hub.

REPOSITORY = "puzzles/good"
_READ = ("resolve_head", "resolve")
_PUSH = ("create", "validate_yaml", "preupload", "lfs_batch", "lfs_put", "commit", "repo_info")


def hub_case(folder: Path, rng: random.Random, materials: Materials) -> Case:
    """One answer, or all of its kind, changed on the way to a client that loads or pushes."""
    hub, is_push = materials.hub, rng.random() < 0.5
    kind, index = rng.choice(_PUSH if is_push else _READ), rng.choice([0, 0, 0, 1])
    name, change = damage_reply(rng)
    fault = Fault("change", kind, index=index, times=rng.choice([1, 9]), change=change)
    (folder / "note.bin").write_bytes(rng.randbytes(64))  # something to upload every time
    target = f"puzzles/pushed-{rng.randrange(10**9)}" if is_push else REPOSITORY
    work = push_here if is_push else load_there

    def call() -> str:
        hub.inject(fault)
        try:
            outcome, said = materials.pool.submit(work, folder, target).result()
        finally:
            fault.times = 0
        if outcome == "named":
            raise ValueError(said)
        if outcome == "raw":
            raise RuntimeError(said)
        return said

    def is_right(said: str) -> bool:
        return pushed(hub, target, folder, said) if is_push else said == "as the Hub has it"

    return Case(f"Hub, {'push' if is_push else 'load'}, {kind} {index}: {name}", call, is_right,
                (target, "config.json", "model.safetensors"))  # fmt: skip


def damage_reply(rng: random.Random) -> tuple[str, Callable[[Reply], Reply]]:
    """A name, and what becomes of an answer; the same for the same generator."""
    kind, seed = rng.choice(["bytes", "fields", "value", "header"]), rng.random()

    def change(reply: Reply) -> Reply:
        draw = random.Random(seed)
        if kind == "header":
            name = draw.choice(sorted(reply.headers) or ["ETag"])
            value = draw.choice([None, "", "x", "0", "../..", "9" * 300, '"'])
            headers = {key: text for key, text in reply.headers.items() if key != name}
            return dataclasses.replace(reply, headers=headers if value is None else headers | {name: value})
        if kind == "bytes":
            return dataclasses.replace(reply, body=damage_bytes(reply.body, draw)[1])
        try:
            known = json.loads(reply.body)
        except ValueError:
            return reply
        is_object = kind == "fields" and isinstance(known, dict) and known
        value = damage_fields(known, draw)[1] if is_object else odd_value(draw)
        return dataclasses.replace(reply, body=json.dumps(value).encode())

    return f"{kind} {seed}", change


def _tell(work: Callable[[], str]) -> tuple[str, str]:
    """What came of it, and the words; errors of the client cannot travel between processes."""
    try:
        return "done", work()
    except ValueError as error:
        return "named", str(error)
    except BaseException as error:
        return "raw", f"{type(error).__name__}: {error}"


def load_there(folder: Path, repository: str) -> tuple[str, str]:
    """Loads a repository into a cache of its own, and compares with what the Hub served."""
    cache = folder / "cache"

    def load() -> str:
        model = load_model(repository, cache_dir=str(cache))
        snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"  # one, if all name one commit
        same = any(holds_weights(model, path) for path in snapshots.rglob("model.safetensors"))
        same = same and any(says(model.config, path) for path in snapshots.rglob("config.json"))
        return "as the Hub has it" if same else "otherwise"

    return _tell(load)


def push_here(folder: Path, repository: str) -> tuple[str, str]:
    """What the process of a push does, in this one, which need not be started for every case."""
    arguments = {"repository": repository, "repo_type": "model", "folder": str(folder), "private": True,
                 "revision": None, "token": None, "message": "fuzz", "waits": [0.01]}  # fmt: skip
    return _tell(lambda: transfer.checked(transfer.carry_out("push", arguments), "push", repository)["commit"])


def pushed(hub: HubServer, repository: str, folder: Path, commit: str) -> bool:
    """Whether the Hub's newest commit is the one that was named, and holds the folder."""
    files = hub.files("model", repository)
    return commit == hub.head("model", repository) and contents(folder).items() <= files.items()


# Provenance.


def provenance_case(folder: Path, rng: random.Random) -> Case:
    path = folder / PROVENANCE
    before = json.loads(path.read_text())
    if rng.random() < 0.5:
        name = damage_json(path, rng)
    else:  # deeper down
        config = rng.choice(sorted(before))
        split = rng.choice(sorted(before[config]["splits"]))
        name, before[config]["splits"][split] = damage_fields(before[config]["splits"][split], rng)
        path.write_text(json.dumps(before))
    if rng.random() < 0.5:
        words = ["data", "info", folder, *(["--check"] if rng.random() < 0.5 else [])]
        case = cli_case(f"provenance: {name}", words, allowed=(0,), mentions=(PROVENANCE, "data/", str(folder)))
        return dataclasses.replace(case, is_right=lambda status: status == 0 and is_recorded(folder))

    def check() -> dict:
        check_folder(folder)
        return read_provenance(folder)

    def is_right(facts: dict) -> bool:
        rows = {"train": 8, "test": 4}
        counted = all(
            split["num_rows"] == rows[name] for fact in facts.values() for name, split in fact["splits"].items()
        )
        return counted and is_recorded(folder)

    return Case(f"provenance: {name}", check, is_right, (PROVENANCE, "data/", str(folder)))


def is_recorded(folder: Path) -> bool:
    """Whether every entry that is looked at is there, and of its type."""
    splits = [split for facts in json.loads((folder / PROVENANCE).read_text()).values()
              for split in facts["splits"].values()]  # fmt: skip
    return all(
        type(split[name]) is kind and (kind is not int or split[name] >= 0)
        for split in splits
        for name, kind in (("num_rows", int), ("puzzles", int), ("skipped", int), ("sha256", str), ("files", dict))
    )


# States of training.


def resume_case(folder: Path, rng: random.Random) -> Case:
    """A damaged state, whose manifest was mostly written anew; or a damaged manifest."""
    name = rng.choice([STATE, STATE, TENSORS, MANIFEST, "training.json"])
    if name == TENSORS:
        kind, data = damage_bytes((folder / name).read_bytes(), rng)
        (folder / name).write_bytes(data)
    else:
        kind = damage_json(folder / name, rng)
    anew = name != MANIFEST and rng.random() < 0.8
    if anew:
        rewrite_manifest(folder)
    learner = make_learner(folder)

    def resume() -> dict:
        load_checkpoint(learner, folder)
        return read_progress(folder)

    def is_right(progress: dict) -> bool:
        state = json.loads((folder / STATE).read_text())
        saved = load_file(folder / TENSORS)
        weights = learner.model.state_dict()
        return (
            anew | (name == MANIFEST)
            and (learner.step, learner.skipped) == (state["step"], state["skipped"])
            and progress == json.loads((folder / "training.json").read_text())
            and all(torch.equal(tensor, saved[f"weights.{key}"]) for key, tensor in weights.items())
        )

    return Case(f"{name}{' anew' * anew}: {kind}", resume, is_right, (name, folder.name))


def make_learner(folder: Path):
    """Of the model and the recipe that `run` was made with."""
    model = AIRForPuzzleSolving(AIRConfig.from_pretrained(folder))
    return small_learner(model, batch_size=8, variant="Lx_H")


# Requests to generators.

_NUMBERS = ("-1", "0", "1", "2", "4", "5", "16", "17", "1e9", "9" * 30, "nan", "inf", "-inf", "0.5", "1.5", "", "x",
            "٤", "-0")  # fmt: skip
_BOARDS = ("sudoku-4x4", "sudoku-4x4", "maze-4x5", "maze-4x5", "sudoku-5x5", "sudoku-0x0", "maze-1x1", "maze-2x2",
           "maze-٤x٤", "maze-100000x100000", "sudoku", "", "x", "grid-3x4", "maze-4x", "maze--4x4", "sudoku-4x4\n",
           "a\0b")  # fmt: skip


def generator_case(folder: Path, rng: random.Random) -> Case:
    """`air-hf data generate` with odd numbers; half a second is all it may take to draw."""
    board, output = rng.choice(_BOARDS), folder / "made"
    values = {"train": "2", "test": "1", "seed": str(rng.randrange(9)), "workers": "1", "max_seconds": "0.5"}
    odd = dict.fromkeys(rng.sample(("train", "test", "seed", "workers", "max_seconds", "clues", "min_rating",
                                    "min_path_cells", "wall_share"), rng.choice([0, 1, 1, 2])))  # fmt: skip
    values |= {name: rng.choice(_NUMBERS) for name in odd}
    if values["workers"] not in ("1", "2") and values["workers"].isdecimal():
        values["workers"] = "1"  # a thousand processes may well be asked for
    words = [f"--{name}={value}" for name, value in values.items()]
    mentions = (*(odd or ("max_seconds",)), board.strip() or "''", repr(board)[1:-1], board.split("-")[-1])

    def is_right(status: int) -> bool:
        made = {split: load_puzzles(output, board, split) for split in ("train", "test")}
        return status == 0 and all(str(len(made[split])) == str(int(values[split])) for split in made)

    words = ["data", "generate", f"--puzzle={board}", "--output", output, *words]
    case = cli_case(f"generate {board!r} {words[5:]}", words, mentions)
    return dataclasses.replace(case, is_right=is_right)


# Calls of the model.


def model_case(folder: Path, rng: random.Random) -> Case:
    """One odd argument; where it is taken, the answers are those of the plain call."""
    model = AIRForPuzzleSolving(AIRConfig.from_pretrained(folder)).eval()
    torch.manual_seed(0)
    batch, cells = 3, model.config.seq_len
    good = {"input_ids": torch.randint(1, 6, (batch, cells)), "labels": torch.randint(1, 6, (batch, cells)),
            "puzzle_ids": torch.zeros(batch, dtype=torch.long)}  # fmt: skip
    kind = rng.choice(["forward", "state", "solve"])
    if kind == "state":
        return state_case(model, good, rng)
    if kind == "solve" and rng.random() < 0.7:
        return option_case(model, good["input_ids"], rng)
    name = rng.choice(["input_ids", "puzzle_ids"] if kind == "solve" else sorted(good))
    what, odd = odd_tensor(good[name], rng)
    if kind == "solve":
        good.pop("labels")
    call = model.solve if kind == "solve" else model
    return Case(f"{kind}, {name}: {what}", partial(call, **good | {name: odd}),
                lambda output: agrees_with_plain(call, good, name, odd, output),
                (name, "puzzle_ids has shape"))  # fmt: skip


def odd_tensor(tensor: torch.Tensor, rng: random.Random) -> tuple[str, Any]:
    """Other types, shapes, values, or no tensor at all."""
    kinds = {
        "float": tensor.float, "half": tensor.half, "bool": tensor.bool, "uint8": lambda: tensor.to(torch.uint8),
        "int32": tensor.int, "int16": tensor.short, "complex": lambda: tensor.to(torch.complex64),
        "flat": tensor.flatten, "deeper": lambda: tensor.unsqueeze(0), "fewer": lambda: tensor[:-1],
        "more": lambda: torch.cat((tensor, tensor)), "one": lambda: tensor[:1], "empty": lambda: tensor[:0],
        "narrow": lambda: tensor[..., :-1], "column": lambda: tensor[..., :1], "scalar": lambda: tensor.sum(),
        "turned": lambda: tensor.mT if tensor.ndim == 2 else tensor.unsqueeze(1),
        "list": tensor.tolist, "text": lambda: "x", "none": lambda: None, "number": lambda: 3,
        "array": tensor.numpy, "views": lambda: tensor.repeat(1, 2)[..., ::2] if tensor.ndim == 2 else tensor,
    }  # fmt: skip
    if rng.random() < 0.4:
        value = rng.choice([-1, -100, 6, 7, 255, 2**31, 2**40, 2**62, -(2**62)])
        odd = tensor.clone()
        odd.view(-1)[rng.randrange(odd.numel())] = value
        return f"holds {value}", odd
    kind = rng.choice(sorted(kinds))
    return kind, kinds[kind]()


def agrees_with_plain(call: Callable, good: dict, name: str, odd: Any, output) -> bool:
    """Whether the answers are those of the same numbers given as the model wants them."""
    if odd is None:
        plain = {key: value for key, value in good.items() if key != name}
    elif torch.is_tensor(odd) and odd.dtype in (torch.int32, torch.int64):
        plain = good | {name: odd.long().contiguous()}
    else:
        return False
    expected = call(**plain)
    return torch.equal(output.q_halt_logits, expected.q_halt_logits) and len(output.q_halt_logits) == len(odd if
        name == "input_ids" else good["input_ids"])  # fmt: skip


def state_case(model: AIRForPuzzleSolving, good: dict, rng: random.Random) -> Case:
    """A state with a tensor that is not one of a state of these questions."""
    good.pop("labels")
    state = model(**good).state
    name = rng.choice(["z_h", "z_l", "num_segments"])
    what, odd = odd_tensor(getattr(state, name), rng) if name == "num_segments" else odd_tensor(
        (getattr(state, name) * 10).long(), rng)  # fmt: skip
    if name != "num_segments" and torch.is_tensor(odd) and odd.dtype is torch.int64 and rng.random() < 0.5:
        what, odd = f"{what}, float", odd.float()
    changed = dataclasses.replace(state, **{name: odd})

    def is_right(output) -> bool:
        wanted = torch.is_tensor(odd) and odd.shape == getattr(state, name).shape
        return wanted and odd.is_floating_point() == (name != "num_segments")

    return Case(f"state, {name}: {what}", partial(model, **good, state=changed), is_right, (name,))


def option_case(model: AIRForPuzzleSolving, ids: torch.Tensor, rng: random.Random) -> Case:
    """An odd value of an option of solving."""
    name = rng.choice(["q_halt_threshold", "max_segments", "patience", "rollouts", "noise", "budget", "seed",
                       "early_stop", "early_exit", "select", "batch_size", "symmetries",
                       "rollouts_at_once"])  # fmt: skip
    value = odd_value(rng)
    allowed = {
        "q_halt_threshold": float, "noise": float, "early_stop": bool, "symmetries": bool, "early_exit": str,
        "select": str,
    }.get(name, int)  # fmt: skip

    def is_right(answer) -> bool:
        of_type = type(value) is allowed or (allowed is float and type(value) is int) or (
            value is None and name in ("max_segments", "budget", "batch_size"))  # fmt: skip
        return of_type and value == value and answer.sequences.shape == ids.shape

    return Case(f"solve, {name}={str(value)[:30]!r}", partial(model.solve, ids, **{name: value}), is_right, (name,))


_OTHERS: dict[str, tuple[Callable, str]] = {
    "hub": (hub_case, "checkpoint"),
    "provenance": (provenance_case, "set"),
    "resume": (resume_case, "run"),
    "generator": (generator_case, "nothing"),
    "model": (model_case, "checkpoint"),
}
_SHARES = {"checkpoint": 25, "data": 10, "recipe": 10, "command": 5, "hub": 10, "provenance": 10, "resume": 10,
           "generator": 5, "model": 15}  # fmt: skip


def draw_case(materials: Materials, number: int, room: str | None = None) -> tuple[str, Case]:
    """Case `number`, of a fresh copy of what it damages; also the room it belongs to, which may be said."""
    rng = random.Random(f"0 {number}")
    room = room or rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    function, source = _OTHERS.get(room) or (ROOMS[room], "checkpoint")
    place = materials.folder / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(materials.folder / source, place)
    return room, function(place, rng, *([materials] if room == "hub" else []))
