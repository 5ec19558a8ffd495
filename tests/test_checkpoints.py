"""Checkpoints of every variant, loaded every way, give the same numbers; what does not fit says so."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training import WITHOUT_AIR_HF
from transformers import AutoModel, AutoTokenizer

from air_hf import AIRForPuzzleSolving
from air_hf.hub import CheckpointError
from air_hf.puzzles import get_puzzle
from air_hf.tokenization import build_tokenizer
from air_hf.variants import VARIANTS

# Run from elsewhere with -I and without site-packages' air_hf: the class must come from the checkpoint's own code.
REMOTE = (
    WITHOUT_AIR_HF
    + """
import torch
from transformers import AutoModel
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    ids = torch.arange(16).remainder(5).add(1).unsqueeze(0)
    with torch.no_grad():
        out = model(input_ids=ids)
        out = model(input_ids=ids, state=out.state)
    torch.save({"logits": out.logits, "q": out.q_halt_logits}, f"{folder}/remote.pt")
    model.save_pretrained(f"{folder}/again")
"""
)


def two_segments(model) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(16).remainder(5).add(1).unsqueeze(0)
    with torch.no_grad():
        out = model.eval()(input_ids=ids)
        out = model(input_ids=ids, state=out.state)
    return out.logits, out.q_halt_logits


def save(model, folder):
    model.save_pretrained(folder)
    build_tokenizer(get_puzzle("sudoku-4x4")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_loading_gives_the_same_numbers(variant, make_model, tmp_path):
    model = make_model(variant)
    expected = two_segments(model)
    folder = save(model, tmp_path / "checkpoint")
    ways = {
        "class": AIRForPuzzleSolving.from_pretrained(folder),
        "AutoModel": AutoModel.from_pretrained(folder),
        "device_map": AutoModel.from_pretrained(folder, device_map="cpu"),
    }
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    ways["sharded"] = AutoModel.from_pretrained(tmp_path / "sharded")
    for way, loaded in ways.items():
        for ours, theirs in zip(expected, two_segments(loaded), strict=True):
            assert torch.equal(ours, theirs), way
    for dtype in (torch.bfloat16, torch.float16):
        loaded = AutoModel.from_pretrained(folder, dtype=dtype)
        logits, q_halt = two_segments(loaded)
        assert loaded.dtype == dtype
        assert q_halt.dtype == torch.float32
        assert (logits.float() - expected[0]).abs().max() < 0.1 * expected[0].abs().max()


def test_device_map_auto(make_model, tmp_path):
    folder = save(make_model(), tmp_path / "checkpoint")
    loaded = AutoModel.from_pretrained(folder, device_map="auto")
    assert torch.equal(two_segments(loaded)[0], two_segments(make_model())[0])


def test_loading_without_this_package(make_model, tmp_path):
    """Every variant in one process, because importing takes longer than loading; and saving again keeps everything."""
    folders = {variant: save(make_model(variant), tmp_path / variant) for variant in VARIANTS}
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", REMOTE, *map(str, folders.values())],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for variant, folder in folders.items():
        expected = two_segments(make_model(variant))
        remote = torch.load(folder / "remote.pt", weights_only=True)
        assert torch.equal(remote["logits"], expected[0]), variant
        assert torch.equal(remote["q"], expected[1]), variant
        code = {path.name for path in folder.glob("*.py")}
        assert {path.name for path in (folder / "again").glob("*.py")} == code
        ours, theirs = (json.loads((place / "config.json").read_text()) for place in (folder, folder / "again"))
        assert theirs == ours
        assert torch.equal(two_segments(AutoModel.from_pretrained(folder / "again"))[0], expected[0])


def test_the_lines_of_the_readme():
    """Those under "Solve", as they stand there, on the model that comes with the package."""
    root = Path(__file__).parent.parent
    section = (root / "README.md").read_text().split("## Solve")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    answer = ast.literal_eval(done.stdout)
    assert answer["solution"] == "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    assert answer["valid"] is True


def test_boards_that_do_not_fit_say_so(make_model, tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match=r"input_ids has shape \(1, 36\); this model takes \(puzzles, 16\) boards"):
        model(input_ids=torch.ones(1, 36, dtype=torch.long))
    tokenizer = build_tokenizer(get_puzzle("sudoku-9x9"))
    ids = tokenizer("9" * 16, return_tensors="pt").input_ids
    for call in (model, model.solve):
        with pytest.raises(ValueError, match=r"symbol 10; this model knows 0 to 5 \(sudoku-4x4\)"):
            call(input_ids=ids)


def test_weights_of_another_size_say_so(make_model, tmp_path):
    folder = save(make_model(), tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"of another shape: lm_head.weight \(6, 32\), not \(11, 32\)"):
        AIRForPuzzleSolving.from_pretrained(folder, vocab_size=11)


def test_loading_runs_no_code_of_the_checkpoint(make_model, tmp_path):
    """With air_hf imported the checkpoint's code is not looked at; without trust it is refused."""
    folder = save(make_model(), tmp_path / "checkpoint")
    for file in folder.glob("*.py"):
        file.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nraise SystemExit('code of the checkpoint ran')\n")
    AutoModel.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    alone = "from transformers import AutoModel\nAutoModel.from_pretrained('checkpoint', trust_remote_code=False)"
    done = subprocess.run([sys.executable, "-I", "-c", alone], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "trust_remote_code" in done.stderr
    assert not (tmp_path / "executed").exists()
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt")) + list(folder.glob("*.pkl"))
