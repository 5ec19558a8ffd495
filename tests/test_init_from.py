"""New runs from the weights of others: what fits is taken, what does not is named."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from support.training import TINY_RUN, make_csv

from air_hf.cli import main
from air_hf.data import PuzzleSet
from air_hf.dataset_builders.generate import make_generator
from air_hf.hub import CheckpointError, load_model
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.puzzles import get_puzzle
from air_hf.run_recipe import RunRecipe
from air_hf.runs import load_checkpoint, parse_recipe
from air_hf.runs import make_model as make_model_of_recipe
from air_hf.runs.data import load_files
from air_hf.runs.facts import _origin
from air_hf.runs.start import make_config, take_weights
from air_hf.training import Learner, Recipe
from air_hf.variants import CONFIG_FIELDS


def test_weights_are_taken_by_name(make_model, tmp_path):
    theirs, ours = make_model(level_token="add"), make_model(seed=1, input_operator="linear")
    theirs.save_pretrained(tmp_path)
    before = ours.model.input_proj.weight.clone()
    assert take_weights(ours, str(tmp_path)) == [
        "model.input_proj.weight begins anew",
        f"model.level_token_h of {tmp_path} is left out",
        f"model.level_token_l of {tmp_path} is left out",
    ]
    assert torch.equal(ours.lm_head.weight, theirs.lm_head.weight)
    assert torch.equal(ours.model.z_h_init, theirs.model.z_h_init)
    assert torch.equal(ours.model.input_proj.weight, before)


def test_weights_of_another_shape_are_refused(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    ours = make_model(vocab_size=7)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(
        CheckpointError,
        match=r"another shape than this model: lm_head.weight \(6, 32\), not \(7, 32\); model.embed_tokens.weight",
    ):
        take_weights(ours, str(tmp_path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_the_model_is_that_of_the_checkpoint(make_model, tmp_path):
    """But for what is said: nobody has to repeat the fields of a model that is there."""
    make_model("L_H2x", hidden_size=64).save_pretrained(tmp_path / "model")
    puzzles = load_files(str(make_csv(tmp_path / "data", train=4, test=2)), None, "train").puzzles
    recipe, config = make_config(RunRecipe(init_from=str(tmp_path / "model")), {"max_segments": 7}, puzzles)
    assert recipe.variant == "L_H2x"
    assert (config.hidden_size, config.max_segments, config.h_injections) == (64, 7, 2)
    recipe, config = make_config(RunRecipe(), {}, puzzles)
    assert (recipe.variant, config.hidden_size) == ("Lx_H", 512)


def test_candidates_go_on_with_other_boards(make_model, tmp_path):
    """As many groups of features as the new boards have digits, unless a width is asked for."""
    model = make_model(puzzle="sudoku-4x4", mixer="candidates", position_embedding="none", hidden_size=32,
                       prefix_dim=4)  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    drawn = make_generator(get_puzzle("sudoku-6x6")).draw(4, np.random.default_rng(0))
    puzzles = PuzzleSet(get_puzzle("sudoku-6x6"), *drawn, "generated")
    recipe = RunRecipe(init_from=str(tmp_path / "model"))
    config = make_config(recipe, {}, puzzles)[1]
    assert (config.puzzle, config.hidden_size) == ("sudoku-6x6", 48)
    assert take_weights(AIRForPuzzleSolving(config), recipe.init_from) == []
    assert make_config(recipe, {"hidden_size": 24}, puzzles)[1].hidden_size == 24


def test_a_run_that_begins_with_weights(make_model, tmp_path, capsys):
    """The command a user types; one step of a tiny rate leaves the weights where they were."""
    theirs = make_model(max_segments=3, num_hidden_layers=1)
    theirs.save_pretrained(tmp_path / "model")
    data = make_csv(tmp_path / "data", train=16, test=4)
    words = [word for word in TINY_RUN if word not in ("--config", "examples/configs/sudoku-6x6.yaml")]
    words += ["--train_data", data, "--output_dir", tmp_path / "run", "--init_from", tmp_path / "model",
              "--max_steps", 2, "--learning_rate", "1e-9", "--weight_decay", 0]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, words)])
    assert stopped.value.code == 0, capsys.readouterr().err
    ours = load_model(tmp_path / "run" / "checkpoint")
    torch.testing.assert_close(ours.lm_head.weight, theirs.lm_head.weight, atol=1e-6, rtol=0)
    facts = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())
    assert facts["init_from"]["name"] == "model"
    assert len(facts["init_from"]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(facts)
    make_model(seed=9, max_segments=3, num_hidden_layers=1).save_pretrained(tmp_path / "model")  # which trained on
    words[words.index("--max_steps") + 1] = 3
    with pytest.raises(SystemExit) as stopped:
        main(["train", *map(str, words), "--resume_from", "latest"])
    again = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())
    assert (stopped.value.code, again["step"], again["init_from"]) == (0, 3, facts["init_from"])


def test_what_a_run_began_with_is_recorded_by_its_weights(make_model, tmp_path):
    """By all of its files, and by the name of a model that comes with the package."""
    digests = set()
    for seed in (1, 2):
        make_model(seed=seed).save_pretrained(tmp_path / str(seed), max_shard_size="50KB")
        assert (tmp_path / str(seed) / "model.safetensors.index.json").is_file()
        digests.add(_origin(str(tmp_path / str(seed)), None)["sha256"])
    assert len(digests) == 2
    assert _origin("sudoku-4x4", None)["name"] == "sudoku-4x4"


# Recipes of later stages, the model of the package that each ends with, and how the model before it differs.
LATER_STAGES = {
    "maze-30x30.yaml": ("maze-30x30", {}),
    "maze-30x30-hard.yaml": ("maze-30x30-hard", {}),
    "sudoku-9x9-two-cycles.yaml": ("sudoku-9x9", {"h_cycles": 1}),
}


def test_later_stages_are_listed():
    recipes = {path.name: yaml.safe_load(path.read_text()) for path in Path("examples/configs").glob("*.yaml")}
    assert {name for name, fields in recipes.items() if "init_from" in fields} == set(LATER_STAGES)


@pytest.mark.parametrize("recipe_name", LATER_STAGES)
def test_a_later_stage_makes_the_model_it_ends_with(recipe_name, tmp_path):
    name, before = LATER_STAGES[recipe_name]
    expected = load_model(name)
    earlier = copy.deepcopy(expected)
    for field, value in before.items():
        setattr(earlier.config, field, value)
    earlier.save_pretrained(tmp_path / "earlier")
    data = make_csv(tmp_path / "data", expected.config.puzzle, train=2, test=1)
    words = ["--config", f"examples/configs/{recipe_name}", "--train_data", data, "--init_from", tmp_path / "earlier"]
    given = parse_recipe([str(word) for word in words])
    recipe, config = make_config(*given, load_files(str(data), None, "train").puzzles)
    assert recipe.variant == "Lx_Hx"
    assert {f: getattr(config, f) for f in CONFIG_FIELDS} == {f: getattr(expected.config, f) for f in CONFIG_FIELDS}
    model = make_model_of_recipe(recipe, config, Accelerator(cpu=True, mixed_precision="no"))
    for weight, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[weight], tensor), weight


def test_a_checkpoint_without_a_state_of_training_says_what_to_do(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    learner = Learner(make_model(), Recipe(compile="off"), Accelerator(cpu=True, mixed_precision="no"))
    with pytest.raises(CheckpointError, match="--init_from begins a new run with the weights of any checkpoint"):
        load_checkpoint(learner, tmp_path)
