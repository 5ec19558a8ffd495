"""Runs that are interrupted, killed, damaged or poisoned: what goes on is the same run, and what cannot says why."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from support.training import ROOT, TINY_RUN, make_csv, small_learner, small_stream

import air_hf.evaluation
from air_hf.cli import main
from air_hf.data import PuzzleStream
from air_hf.hub import CheckpointError
from air_hf.runs import save_checkpoint
from air_hf.runs.checkpoint import MANIFEST, check_manifest
from air_hf.runs.folder import RunFolder
from air_hf.runs.interruption import Interruption
from air_hf.training import Learner, NonFiniteError

TINY = [*TINY_RUN, "--batch_size", "8", "--max_steps", "24", "--save_every", "2", "--eval_every", "12",
        "--log_every", "5", "--resume_from", "latest"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_csv(tmp_path_factory.mktemp("data"))


def command(data, output, *words) -> list[str]:
    words = [*TINY, "--train_data", data, "--output_dir", output, *words]
    return ["examples/train.py", *map(str, words)]


def train_here(words: list[str]) -> None:
    """`air-hf train` in this process."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    with open(os.devnull, "w") as sys.stderr:
        sys.stdout = sys.stderr
        main(["train", *words[1:]])


# Forks of a process that has imported everything and run nothing, so that starting one takes a moment. A fork of this
# process would share tqdm's lock with it and with every other: once one is killed holding it, the rest wait for ever.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["air_hf.runs", "air_hf.commands.train", "datasets", "pytest"])


def start(words: list[str]) -> multiprocessing.Process:
    """The same in a process of its own, which ends with this one."""
    process = FORKS.Process(target=train_here, args=(words,), daemon=True)
    process.start()
    return process


def final_state(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "checkpoint" / "training_state" / "state.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = final_state(one), final_state(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    steps, scores = zip(*(read_records(run) for run in (one, other)), strict=True)
    assert steps[0] == steps[1]
    assert scores[0] == scores[1]


def read_records(run: Path) -> tuple[list[dict], list[dict]]:
    """The lines of metrics and the evaluations, but for their times."""
    metrics, evaluations = (
        [json.loads(line) for line in (run / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "evaluations.jsonl")
    )
    for line in metrics:
        del line["minutes"], line["puzzles_per_second"]
    return metrics, [{k: v for k, v in e.items() if k != "minutes"} for e in evaluations]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The run that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    process = start(command(data, output))
    process.join()
    assert process.exitcode == 0
    return output


def checkpoints(output: Path) -> set[str]:
    return {path.name for path in output.glob("checkpoints/step-*")}


def is_saving(output: Path) -> bool:
    """Whether a save is under way: what it has written so far is there under another name."""
    return any(output.glob("checkpoints/.step-*.part"))


@pytest.fixture
def ways(request, data, whole, tmp_path) -> tuple[Path, list[str]]:
    """The undisturbed run, and what else the command says."""
    if request.param == "plain":
        return whole, []
    words = ["--compile", "on", "--num_threads", "2"]
    process = start(command(data, tmp_path / "whole", *words))
    process.join()
    assert process.exitcode == 0
    return tmp_path / "whole", words


@pytest.mark.parametrize(
    ("kills", "ways"),
    [
        (4, "plain"),
        pytest.param(20, "plain", marks=pytest.mark.slow),
        pytest.param(4, "compiled, two threads", marks=pytest.mark.slow),
    ],
    indirect=["ways"],
)
def test_killed_at_random_moments(data, ways, tmp_path, kills):
    """SIGKILL, in steps and in saves alike; each time the same command goes on, to the same weights."""
    rng = random.Random(kills)
    expected, words = ways
    output = tmp_path / "run"
    struck = struck_saves = 0
    while struck < kills:
        process = start(command(data, output, *words))
        if struck % 2:  # every other one is struck in a save
            while process.is_alive() and not is_saving(output):
                pass
        else:
            time.sleep(rng.uniform(0.2, 1.6))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:  # it got to the end before it was struck: once more from the start
            assert_same_run(output, expected)
            output = tmp_path / f"run-{struck}-{time.monotonic_ns()}"
        else:
            struck += 1
            struck_saves += is_saving(output)
    assert struck_saves >= kills // 4
    process = start(command(data, output, *words))
    process.join()
    assert process.exitcode == 0
    assert_same_run(output, expected)
    assert not is_saving(output)
    assert not list(output.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop(data, whole, tmp_path, number):
    """The command a user types: the step ends, the run is saved, the status says so, and the run goes on."""
    output = tmp_path / "run"
    words = command(data, output, "--save_every", "0")
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (output / "metrics.jsonl").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        out, error = process.communicate()
    finally:
        process.kill()
    if process.returncode == 0:  # too late: it was done
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 75, error
    assert f"after {number.name}; go on with --resume_from latest" in out
    assert len(list((output / "checkpoints").iterdir())) == 1
    start(words).join()
    assert_same_run(output, whole)


class StuckPublisher:
    """A Hub that accepts a push and never answers, until somebody gives it up."""

    def __init__(self, repository, private, report, *, timeout, revision, card):
        self.given_up = threading.Event()
        assert timeout == 60 * 7

    def check(self):
        """Nothing wrong so far."""

    def push(self, checkpoint, step):
        threading.Thread(target=self.given_up.wait, daemon=True).start()

    def finish(self, checkpoint):
        signal.raise_signal(signal.SIGTERM)
        assert self.given_up.wait(60)

    def abandon(self):
        self.given_up.set()


@pytest.mark.parametrize("moment", ["between", "finish"])
def test_told_to_stop_while_the_hub_is_silent(data, tmp_path, monkeypatch, capsys, moment):
    """In a push at work beside the training, and in the last one, for which the run waits."""
    monkeypatch.setattr("air_hf.runs.run.BackgroundPublisher", StuckPublisher)
    words = ["--push_to_hub", "me/model", "--push_every", "1", "--push_timeout", "7", "--max_steps", "4",
             "--eval_every", "2"]  # fmt: skip
    if moment == "between":
        monkeypatch.setattr(StuckPublisher, "push", lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *command(data, tmp_path / "run", *words)[1:]])
    assert stopped.value.code == 75
    step = {"between": 3, "finish": 4}[moment]
    assert f"saved step {step} after SIGTERM; go on with --resume_from latest" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()


def test_trackers_are_finished_where_a_run_is_stopped(data, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(Accelerator, "end_training", lambda accelerator: ended.append(accelerator))
    drawn = PuzzleStream.batch
    monkeypatch.setattr(PuzzleStream, "batch", lambda *place: signal.raise_signal(signal.SIGTERM) or drawn(*place))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *command(data, tmp_path / "run", "--max_steps", "4")[1:]])
    assert (stopped.value.code, len(ended)) == (75, 1)


def test_told_to_stop_in_an_evaluation(data, tmp_path, monkeypatch, capsys):
    """However many puzzles are left; the run goes on with the evaluation."""
    batches = []

    def note(model, batch, max_segments):
        batches.append(batch)
        signal.raise_signal(signal.SIGTERM)
        return run_segments(model, batch, max_segments)

    run_segments = air_hf.evaluation._run_segments
    monkeypatch.setattr("air_hf.evaluation._run_segments", note)
    monkeypatch.chdir(ROOT)
    words = command(data, tmp_path / "run", "--max_steps", "2", "--eval_batch_size", "5")[1:]
    with pytest.raises(SystemExit) as stopped:
        main(["train", *words])
    assert stopped.value.code == 75
    assert len(batches) == 1
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *words])
    assert stopped.value.code == 0
    assert [line["step"] for line in read_records(tmp_path / "run")[1]] == [2]


def test_damaged_checkpoints_are_passed_over(data, whole, tmp_path):
    output = tmp_path / "run"
    start(command(data, output, "--max_steps", "8")).join()
    folders = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert folders == ["step-00000006", "step-00000008"]
    weights = output / "checkpoints" / "step-00000008" / "training_state" / "state.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"damaged: training_state/state\.safetensors is not as it was written"):
        check_manifest(output / "checkpoints" / "step-00000008")
    said = []
    assert RunFolder(output, 2).latest(said.append) == output / "checkpoints" / "step-00000006"
    assert "step-00000008 is damaged" in said[0]
    process = start(command(data, output))
    process.join()
    assert process.exitcode == 0
    assert_same_run(output, whole)


@pytest.mark.parametrize("manifest", [b"\xff", b"[]", b"{}", b'{"config.json": "0"}', b""])
def test_damaged_manifests(make_model, tmp_path, manifest):
    """Passed over; with nothing else left the run does not begin anew without a word."""
    learner, run = make_learner(make_model()), RunFolder(tmp_path, keep=2)
    for step in (1, 2):
        save(learner, run, step)
    said = []
    (run.place(2) / MANIFEST).write_bytes(manifest)
    assert run.latest(said.append) == run.place(1)
    assert "step-00000002 is damaged" in said[0]
    (run.place(1) / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole; remove them to start anew"):
        run.latest(said.append)


def test_one_run_at_a_time(tmp_path):
    first = RunFolder(tmp_path, 1)
    first.open(0)
    with pytest.raises(ValueError, match="another process trains in"):
        RunFolder(tmp_path, 1).open(0)
    del first
    RunFolder(tmp_path, 1).open(0)


def test_repeated_signals_change_nothing(monkeypatch):
    """A launcher forwards what its processes have had; a second Ctrl-C some seconds later is meant."""
    with Interruption() as interruption:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert interruption.signal is signal.SIGTERM
        later = time.monotonic() + 6
        monkeypatch.setattr(time, "monotonic", lambda: later)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_ends_what_is_waited_for():
    ended = []
    with Interruption() as interruption:
        with interruption.calling(lambda: ended.append("while")):
            signal.raise_signal(signal.SIGTERM)
        with interruption.calling(lambda: ended.append("before")):
            pass
    assert ended == ["while", "before"]


def test_records_that_are_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    RunFolder(tmp_path, 1).open(2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 1}\nhalf\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected an object with a step, found 'half"):
        RunFolder(tmp_path, 1).open(2)


def test_what_is_kept(make_model, stream, tmp_path):
    """The last two and the best; `checkpoint` is the last."""
    learner, run = make_learner(make_model()), RunFolder(tmp_path, keep=2)
    for step, exact in enumerate((0.1, 0.7, 0.2, 0.3, 0.7), start=1):
        learner.train_step(stream.batch(learner.step))
        save_checkpoint(learner, run.place(step))
        scores = {"exact_accuracy": exact, "cell_accuracy": exact, "copy_accuracy": 0, "valid_rate": 0, "puzzle": "x",
                  "halting_accuracy": 0, "mean_segments": 1, "halting_exact_accuracy": 0, "num_puzzles": 1,
                  "exact_accuracy_by_segment": [], "num_segments": 1, "num_parameters": 1, "data": "",
                  "num_embedding_parameters": 1}  # fmt: skip
        (run.place(step) / "evaluation.json").write_text(json.dumps(scores))
        run.adopt(step)
        if step == 4:
            kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
            assert kept == {f"step-{number:08d}" for number in (2, 3, 4)}
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000004", "step-00000005"}
    assert (tmp_path / "checkpoint").resolve() == run.place(5).resolve()


def save(learner: Learner, run: RunFolder, step: int) -> None:
    save_checkpoint(learner, run.place(step))
    run.adopt(step)


def test_what_a_killed_save_of_another_step_left_is_removed(make_model, tmp_path):
    run = RunFolder(tmp_path, keep=2)
    left = run.place(437).with_name(".step-00000437.part")
    (left / "training_state").mkdir(parents=True)
    left.with_suffix(".lock").touch()
    save(make_learner(make_model()), run, 400)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000400"}


def test_a_copy_that_followed_the_link_goes_on(make_model, tmp_path):
    """As rsync -L, a snapshot or a zip file makes it: the last checkpoint is there twice."""
    learner = make_learner(make_model())
    save(learner, RunFolder(tmp_path / "run", keep=2), 2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    run = RunFolder(tmp_path / "copy", keep=2)
    assert run.checkpoint.is_dir()
    assert not run.checkpoint.is_symlink()
    run.open(2)
    save(learner, run, 4)
    assert run.checkpoint.resolve() == run.place(4).resolve()


def test_a_folder_is_let_go_of_when_it_is_closed(tmp_path):
    """Not when the garbage collector comes by: a second run in the same process may be next."""
    one, other = RunFolder(tmp_path, keep=1), RunFolder(tmp_path, keep=1)
    one.open(0)
    with pytest.raises(ValueError, match="another process trains in"):
        other.open(0)
    one.close()
    other.open(0)
    other.close()


def test_a_folder_in_the_place_of_the_link_is_not_lost(make_model, tmp_path):
    learner, run = make_learner(make_model()), RunFolder(tmp_path, keep=2)
    save(learner, run, 2)
    run.checkpoint.unlink()
    run.checkpoint.mkdir()
    (run.checkpoint / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="checkpoint is a folder of its own; expected a link to the last of"):
        run.open(2)
    assert (run.checkpoint / "notes.txt").read_text() == "mine"


def test_going_back_drops_what_came_after(make_model, tmp_path):
    """The checkpoint just saved is kept, even if it is the only one to keep and later ones are there."""
    learner, run = make_learner(make_model()), RunFolder(tmp_path, keep=1)
    for step in (2, 4):
        save(learner, run, step)
    (run.place(4) / "evaluation.json").write_text("{")  # damaged
    save(learner, run, 3)
    assert checkpoints(tmp_path) == {"step-00000003"}
    assert run.checkpoint.resolve() == run.place(3).resolve()


def test_a_run_is_not_mixed_with_another(make_model, tmp_path):
    learner, run, other = make_learner(make_model()), RunFolder(tmp_path / "a", 1), RunFolder(tmp_path / "b", 1)
    save(learner, run, 2)
    assert other.find_checkpoint(str(run.checkpoint), print) == run.checkpoint  # a fork, in a folder of its own
    assert run.find_checkpoint(str(run.checkpoint), print) == run.checkpoint
    save(learner, other, 2)
    with pytest.raises(ValueError, match=r"b holds another run than .*; choose another output_dir"):
        other.find_checkpoint(str(run.checkpoint), print)


@pytest.fixture(scope="module")
def stream() -> PuzzleStream:
    return small_stream(12)


make_learner = partial(small_learner, batch_size=12)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite(make_model, stream, poison):
    learner = make_learner(make_model(), max_skipped_steps=1, warmup_steps=1, learning_rate=0.25)
    learner.train_step(stream.batch(0))
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    hook = learner.model.lm_head.weight.register_hook(lambda gradient: gradient * poison)
    metrics = learner.train_step(stream.batch(1))
    assert metrics["count"] == 0
    assert (learner.step, learner.skipped) == (2, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())
    with pytest.raises(
        NonFiniteError, match=r"step 3: the loss or a gradient is not finite .*learning rate 0\.25, puzzle ids \[0\]"
    ):
        learner.train_step(stream.batch(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())
    hook.remove()
    learner.train_step(stream.batch(2))
    assert learner.carry.state.z_h.isfinite().all()


@pytest.mark.parametrize("shared", [0, 3])
def test_puzzles_that_are_learned_and_tested(data, tmp_path, capsys, monkeypatch, shared):
    test = tmp_path / "test.csv"
    make_csv(tmp_path, seed=1, train=1, test=5)
    if shared:
        learned = (data / "train.csv").read_text().splitlines(keepends=True)[1 : 1 + shared]
        test.write_text(test.read_text() + "".join(learned))
    words = command(data, tmp_path / "run", "--max_steps", "1", "--warmup_steps", "1", "--test_data", test)[1:]
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(["train", *words])
    text = capsys.readouterr().out
    assert "parameters" in text
    assert (f"note: {shared} of the {5 + shared} test puzzles are training puzzles" in text) == (shared > 0)
    assert ("training puzzles" in text) == (shared > 0)
