"""The door of a checkpoint: whatever is wrong with its files is said in one line that names the file, nothing loads."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from test_reference import FILES, Reference
from transformers import AutoConfig, AutoModel

from air_hf import AIRConfig, AIRForPuzzleSolving, AIRModel, cli
from air_hf.hub import CheckpointError, load_model, load_tokenizer
from air_hf.hub.loading import weights_sha256
from air_hf.puzzles import get_puzzle
from air_hf.reference import load_reference
from air_hf.tokenization import build_tokenizer

BOARD = "1..............."
SOLVED = "1...............,1234341221434321"


@pytest.fixture
def folder(make_model, tmp_path) -> Path:
    path = tmp_path / "checkpoint"
    make_model().save_pretrained(path)
    build_tokenizer(get_puzzle("sudoku-4x4")).save_pretrained(path)
    return path


def change(folder: Path, **changes) -> None:
    """Changes tensors by name, `__` standing for a dot; None removes one."""
    path = folder / "model.safetensors"
    tensors = load_file(path) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})


NAN, INF = torch.full((6, 32), float("nan")), torch.zeros(6, 32).index_fill(0, torch.tensor(3), float("-inf"))
WEIGHTS = {
    "missing": ({"lm_head__weight": None}, r"missing: lm_head\.weight"),
    "several": ({"lm_head__weight": None, "q_head__bias": None, "head__weight": NAN},
                r"missing: lm_head\.weight, q_head\.bias; unexpected: head\.weight"),
    "misnamed": ({"lm_head__weight": None, "lm_heads__weight": torch.zeros(6, 32)},
                 r"missing: lm_head\.weight; unexpected: lm_heads\.weight"),
    "buffer": ({"model__z_h_init": None}, r"missing: model\.z_h_init"),
    "shape": ({"lm_head__weight": torch.zeros(32, 6)}, r"of another shape: lm_head\.weight \(32, 6\), not \(6, 32\)"),
    "nan": ({"lm_head__weight": NAN}, r"not finite numbers: lm_head\.weight"),
    "infinite": ({"lm_head__weight": INF, "model__z_l_init": torch.full((32,), torch.inf)},
                 r"not finite numbers: lm_head\.weight, model\.z_l_init"),
    "integers": ({"lm_head__weight": torch.zeros(6, 32, dtype=torch.int8)}, r"lm_head\.weight of I8; weights are fl"),
    "truth": ({"q_head__bias": torch.zeros(2, dtype=torch.bool)}, r"q_head\.bias of BOOL; weights are floating-point"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_that_are_not_the_models(folder, fault):
    changes, message = WEIGHTS[fault]
    change(folder, **changes)
    for load in (load_model, AutoModel.from_pretrained, AIRForPuzzleSolving.from_pretrained):
        with pytest.raises(CheckpointError, match=message):
            load(folder)


def test_a_complaint_of_the_client_names_the_checkpoint(folder, monkeypatch):
    """As one about the size that an odd answer of the Hub gives."""
    monkeypatch.setattr(AutoModel, "from_pretrained", mock.Mock(side_effect=ValueError("The file is too large")))
    with pytest.raises(CheckpointError, match=f"{folder} cannot be loaded .The file is too large"):
        load_model(folder)


def test_weights_that_are_not_the_models_without_this_package(folder):
    """The same in the checkpoint's own code, and transformers' report of it is not shown."""
    change(folder, lm_head__weight=None)
    without = "import sys; sys.modules['air_hf'] = None\n"
    script = (
        f"{without}from transformers import AutoModel\nAutoModel.from_pretrained('checkpoint', trust_remote_code=True)"
    )
    environment = {"HF_HOME": str(folder.parent / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=folder.parent, env=environment
    )
    last = done.stderr.strip().splitlines()[-1]
    assert (
        "CheckpointError: checkpoint does not hold the weights of its configuration's model; missing: lm_head" in last
    )
    assert "LOAD REPORT" not in done.stderr


def test_whole_models_and_parts_of_them_load(folder, make_model):
    model = make_model()
    assert torch.equal(AIRModel.from_pretrained(folder).z_h_init, model.model.z_h_init)
    model.model.save_pretrained(folder.parent / "part")
    assert torch.equal(AIRModel.from_pretrained(folder.parent / "part").z_h_init, model.model.z_h_init)
    loaded, info = AIRForPuzzleSolving.from_pretrained(folder, output_loading_info=True, max_segments=7)
    assert loaded.config.max_segments == 7
    assert not info["missing_keys"]
    state_dict = model.state_dict()
    again = AIRForPuzzleSolving.from_pretrained(None, config=model.config, state_dict=state_dict)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    del state_dict["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        AIRForPuzzleSolving.from_pretrained(None, config=model.config, state_dict=state_dict)
    model.save_pretrained(folder.parent / "variant", variant="fp16", max_shard_size="20KB")
    assert torch.equal(load_model(folder.parent / "variant", variant="fp16").lm_head.weight, model.lm_head.weight)


def test_large_half_precision_weights_are_finite(folder):
    """Their sum is not, by which infinite numbers are looked for first."""
    change(folder, lm_head__weight=torch.full((6, 32), 60000.0, dtype=torch.float16))
    assert load_model(folder, dtype=torch.float16).lm_head.weight.min() == 60000


def test_reference_weights_are_checked_alike():
    recorded = Reference(next(path for path in FILES if path.stem == "Lx_H"))
    weights = recorded.group("init.") | {"inner.lm_head.weight": torch.full((7, 16), torch.nan)}
    with pytest.raises(CheckpointError, match=r"not finite numbers: lm_head\.weight"):
        load_reference(weights, recorded.config, recorded.variant)


@pytest.fixture
def sharded(make_model, tmp_path) -> Path:
    path = tmp_path / "sharded"
    make_model().save_pretrained(path, max_shard_size="20KB")
    return path


def edit_index(folder: Path, edit) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(edit(index)))


INDEXES = {
    "list": (lambda index: [], "holds list; expected a JSON object"),
    "no map": (lambda index: {}, "weight_map is missing or empty"),
    "no facts": (lambda index: {"weight_map": index["weight_map"]}, "metadata is None; expected an object"),
    "facts": (lambda index: index | {"metadata": []}, "metadata is []; expected an object"),
    "number": (lambda index: index | {"weight_map": {"lm_head.weight": 3}}, "lm_head.weight is in 3; expected a saf"),
    "elsewhere": (lambda index: index | {"weight_map": dict.fromkeys(index["weight_map"], "../x.safetensors")},
                  "is in '../x.safetensors'; expected a safetensors file beside it"),
    "pickled": (lambda index: index | {"weight_map": dict.fromkeys(index["weight_map"], "model.bin")},
                "is in 'model.bin'; expected a safetensors file beside it"),
    "no file": (lambda index: index | {"weight_map": dict.fromkeys(index["weight_map"], "x.safetensors")},
                "is incomplete: x.safetensors is missing, which model.safetensors.index.json names"),
    "a part": (lambda index: index | {"weight_map": dict(list(index["weight_map"].items())[1:])},
               "holds other weights than model.safetensors.index.json says: "),
}  # fmt: skip


@pytest.mark.parametrize("fault", INDEXES)
def test_index_files(sharded, fault):
    load_model(sharded)
    edit, message = INDEXES[fault]
    edit_index(sharded, edit)
    with pytest.raises(CheckpointError) as error:
        load_model(sharded)
    assert message in str(error.value)


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


FILES_OF_WEIGHTS = {
    "empty": b"",
    "short": b"\x10\x00\x00",
    "long header": (2**40).to_bytes(8, "little") + b"{}",
    "no header": (4).to_bytes(8, "little") + b"null",
    "HTML": b"<!doctype html><title>404</title>" * 9,
    "pickled": pickle.dumps(Payload()),
    "nested": (40000).to_bytes(8, "little") + b"[" * 40000,
}


@pytest.mark.parametrize("fault", FILES_OF_WEIGHTS)
def test_files_that_hold_no_weights(folder, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").write_bytes(FILES_OF_WEIGHTS[fault])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is incomplete, damaged or no safetensors file"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert "model.safetensors is missing; pytorch_model.bin would have to be unpickled" in str(error.value)


CONFIGS = {
    "empty": (b"", "is no JSON: Expecting value"),
    "cut": (b'{"model_type": "air"', "is no JSON"),
    "UTF-16": ('{"model_type": "air"}'.encode("utf-16"), "is no JSON: 'utf-8' codec"),
    "nested": (b'{"a":' * 100_000, "is nested more than 64 deep"),
    "null": (b"null", "holds NoneType; expected a JSON object"),
    "list": (b"[1]", "holds list; expected a JSON object"),
    "another model": (b'{"model_type": "bert"}', "is of model_type 'bert'; expected 'air'"),
    "no model": (b"{}", "is of model_type None; expected 'air'"),
    "large number": (b'{"vocab_size": ' + b"9" * 5000 + b"}", "is no JSON: Exceeds the limit"),
}
FIELDS = {
    "dtype": ("float99", "dtype is float99; expected one of float16"),
    "hidden_size": (None, "'hidden_size'"),
    "seq_len": ("16", "'seq_len'"),
    "vocab_size": (2**70, "vocab_size is 1180591620717411303424; it must be at most"),
    "rope_theta": (2**64, "rope_theta is 18446744073709551616; it must be at most"),
    "auto_map": (0.5, "auto_map is 0.5; expected names of classes"),
    "num_weights": (5, "num_weights is given, which belongs to the class"),
    "to_dict": (5, "to_dict is given, which belongs to the class"),
    "sub_configs": ({"a": 1}, "sub_configs is given, which belongs to the class"),
    "base_model_tp_plan": (3, "base_model_tp_plan is given, which belongs to the class"),
    "attribute_map": ({"max_segments": "h_cycles"}, "attribute_map is given, which belongs to the class"),
    "keys_to_ignore_at_inference": (None, "keys_to_ignore_at_inference is given, which belongs to the class"),
    "__dict__": (3, "__dict__ is given, which belongs to the class"),
    "__validators__": (3, "__validators__ is given, which belongs to the class"),
    "_attn_implementation": ([1], "_attn_implementation is given, which belongs to the class"),
    "attn_implementation": ("kernels-community/x", "attn_implementation is given, which is chosen where a model is"),
    "experts_implementation": (3, "experts_implementation is given, which is chosen where a model is loaded"),
    "h_cycle": (5, "unknown field h_cycle; h_cycles is meant, perhaps"),
    "quantization_config": ({"load_in_4bit": True}, "quantization_config is given; these models are loaded whole"),
    "transformers_weights": ("other.safetensors", "transformers_weights is given; these models are loaded whole"),
    "id2label": ({"a": "b"}, "id2label is {'a': 'b'}; expected names by whole numbers"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_configurations_that_are_none(folder, fault):
    content, message = CONFIGS[fault]
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert f"{folder / 'config.json'} {message}" in str(error.value)


@pytest.mark.parametrize("field", FIELDS)
def test_fields_that_cannot_be(folder, field):
    value, message = FIELDS[field]
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CheckpointError) as error:
        load_model(folder)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # A bad auto_map is transformers' own to read, before it knows of this package's class.
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained) if field != "auto_map" else ():
        with pytest.raises((ValueError, StrictDataclassError)) as error:
            load(folder)
        assert field in str(error.value)


def test_attention_is_chosen_by_who_loads(folder):
    for load in (AutoModel.from_pretrained, AIRForPuzzleSolving.from_pretrained, load_model):
        model = load(folder, attn_implementation="eager")
        assert model.config._attn_implementation == "eager"
        model.save_pretrained(folder)


def test_every_field_must_be_there(folder):
    """A default in its place may be another model with weights of the same shapes."""
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    for name in ("h_cycles", "l_injections", "halting", "rope_theta"):
        path.write_text(json.dumps({key: value for key, value in fields.items() if key != name}))
        with pytest.raises(CheckpointError, match=f"the configuration does not say {name}"):
            load_model(folder)
    assert AIRConfig(**{}).h_cycles == 2


def damage_tokenizer(folder: Path, fault: str) -> None:
    path = folder / "tokenizer.json"
    if fault == "missing":
        return path.unlink()
    facts = json.loads(path.read_text())
    if fault == "swapped":
        vocabulary = facts["model"]["vocab"]
        vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    elif fault == "more":
        facts["model"]["vocab"]["x"] = 6
    elif fault == "model":
        facts["model"] = 3
    elif fault == "pattern":
        pattern = {"Regex": "(([.1-4]+)+)+x"}
        facts["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    elif fault == "another":
        return build_tokenizer(get_puzzle("sudoku-9x9")).save_pretrained(folder)
    path.write_text(json.dumps(facts) if fault != "HTML" else "<html></html>")


TOKENIZERS = {
    "missing": "has no tokenizer: tokenizer.json is missing",
    "swapped": "is no tokenizer of sudoku-4x4: it makes other ids of a board",
    "more": "gives 'x' the id 6; sudoku-4x4 has None",
    "another": "gives '5' the id 6; sudoku-4x4 has None",
    "model": "is no tokenizer of sudoku-4x4",
    "HTML": "is no JSON",
    "pattern": "is no tokenizer of sudoku-4x4: its pre_tokenizer is {'type': 'Split', 'pattern': {'Regex': '((",
}


@pytest.mark.parametrize("fault", TOKENIZERS)
def test_tokenizers(folder, fault):
    damage_tokenizer(folder, fault)
    with pytest.raises(CheckpointError) as error:
        load_tokenizer(folder, AIRConfig.from_pretrained(folder))
    assert TOKENIZERS[fault] in str(error.value)


def run(capsys, *words) -> str:
    """The only line that a command says, which is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, words)))
    captured = capsys.readouterr()
    assert stopped.value.code == 2, captured
    lines = [line for line in captured.err.splitlines() if line and "Loading weights" not in line]  # less progress
    assert len(lines) == 1, lines
    for advice in ("trust_remote_code", "weights_only", "use_safetensors", "ignore_mismatched_sizes", "huggingface.co"):
        assert advice not in lines[0]
    return lines[0]


def test_commands_say_it_in_one_line(folder, capsys, tmp_path):
    """Each kind of damage through the commands that load."""
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)

    def damaged(name: str, content: bytes) -> Path:
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(content)
        return folder

    for name, content, message in (
        ("model.safetensors", b"x" * 100, "model.safetensors is incomplete, damaged or no safetensors file"),
        ("config.json", b"null", "config.json holds NoneType"),
        ("tokenizer.json", b"{}", "tokenizer.json is no tokenizer of sudoku-4x4"),
        ("training.json", b"[", "training.json is no JSON"),
        ("training.json", b'{"step": "x", "arguments": {}}', "training.json: step is 'x'; expected a finite number"),
        (
            "evaluation.json",
            b'{"exact_accuracy": null}',
            "evaluation.json: exact_accuracy is None; expected a finite number",
        ),
    ):
        damaged(name, content)
        assert message in run(capsys, "publish", folder, "org/name")
        if name not in ("training.json", "evaluation.json"):
            assert message in run(capsys, "solve", "--model", folder, BOARD)


RECORDED = {
    "list": ('{"ema": [1]}', "ema is [1]; expected a finite number"),
    "object": ('{"step": {}}', "step is {}; expected a finite number"),
    "text": ('{"step": "x"}', "step is 'x'; expected a finite number"),
    "no number": ('{"step": NaN}', "step is nan; expected a finite number"),
    "endless": ('{"ema": Infinity}', "ema is inf; expected a finite number"),
    "a part": ('{"step": 1.5}', "step is 1.5; expected a finite number"),
    "arguments": ('{"arguments": [1]}', "arguments is [1]; expected an object"),
}


@pytest.mark.parametrize("fault", RECORDED)
def test_records_of_training(folder, fault, capsys, tmp_path):
    text, message = RECORDED[fault]
    (folder / "training.json").write_text(text)
    (tmp_path / "test.csv").write_text(f"question,answer\n{SOLVED}\n")
    said = run(capsys, "evaluate", "--checkpoint", folder, "--data", tmp_path / "test.csv")
    assert f"{folder / 'training.json'}: {message}" in said


def test_outputs_that_are_no_numbers(folder, capsys, tmp_path):
    """Every weight is finite, and what is made of them is not."""
    change(folder, lm_head__weight=torch.full((6, 32), 3e38), model__embed_tokens__weight=torch.full((6, 32), 3e38))
    (tmp_path / "test.csv").write_text(f"question,answer\n{SOLVED}\n")
    solve = ("solve", "--model", folder)
    evaluate = ("evaluate", "--checkpoint", folder, "--data", tmp_path / "test.csv")
    for words in ((*solve, BOARD), (*solve, tmp_path / "test.csv"), evaluate, (*evaluate, "--mode", "adaptive")):
        assert "outputs are not finite numbers in segment 1" in run(capsys, *words)


def test_places_that_are_no_checkpoint(folder, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for place, message in (
        (tmp_path / "file", "is no folder; expected a checkpoint folder, or a repository on the Hub"),
        (tmp_path / "empty", "holds no checkpoint: config.json is missing"),
        (tmp_path / "nowhere", "does not exist"),
        ("https://example.org/x", "does not exist"),
        ("sudoku-9x8", "does not exist"),
    ):
        line = run(capsys, "solve", "--model", place, BOARD)
        assert f"{place} {message}" in line
        assert (message == "does not exist") == ("does not exist" in line)


def test_the_digest_of_sharded_weights_is_of_the_weights(make_model, tmp_path):
    """Not of the index alone, which is the same for all models of a shape."""
    digests, model = set(), make_model()
    for number in range(2):
        folder = tmp_path / str(number)
        model.save_pretrained(folder, max_shard_size="20KB")
        assert not (folder / "model.safetensors").exists()
        digests.add(weights_sha256(folder))
        with torch.no_grad():
            model.lm_head.weight += 1
    assert len(digests) == 2
    one = next(folder.glob("*.safetensors"))
    one.unlink()
    with pytest.raises(CheckpointError, match=f"{one.name} is missing, which model.safetensors.index.json lists"):
        weights_sha256(folder)


OFFLINE = """
import sys
from air_hf import AIRForPuzzleSolving
from air_hf.hub import load_model
from air_hf.hub.loading import weights_sha256
model = AIRForPuzzleSolving.from_pretrained("alice/sharded")
assert weights_sha256("alice/sharded") == sys.argv[1], weights_sha256("alice/sharded")
assert load_model("alice/sharded").num_parameters() == model.num_parameters()
"""


def test_sharded_weights_in_the_cache_need_no_hub(make_model, tmp_path):
    """As `snapshot_download` leaves them: of a file that is not there, nothing says that the repository has none."""
    commit, cache = 40 * "a", tmp_path / "hub" / "models--alice--sharded"
    folder = cache / "snapshots" / commit
    make_model().save_pretrained(folder, max_shard_size="20KB")
    assert not (folder / "model.safetensors").exists()
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", OFFLINE, weights_sha256(folder)], env=environment, text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_weights_that_are_out_of_reach_are_said_to_be(make_model, tmp_path):
    cache = tmp_path / "models--alice--half"
    make_model().config.save_pretrained(cache / "snapshots" / (40 * "a"))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(40 * "a")
    with pytest.raises(CheckpointError, match="alice/half: the weights cannot be read "):
        weights_sha256("alice/half", cache_dir=tmp_path, local_files_only=True)


def test_the_place_may_be_given_by_the_librarys_name(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    model = AIRForPuzzleSolving.from_pretrained(pretrained_model_name_or_path=tmp_path)
    assert torch.equal(model.lm_head.weight, make_model().lm_head.weight)


def test_a_folder_has_no_revisions(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a folder; revision 'v1' is of a repository on the Hub"):
        load_model(tmp_path, revision="v1")
