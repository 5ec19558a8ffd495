"""Configurations: every variant, every field read, every contradiction named."""

import inspect
import json
import re
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

from air_hf import AIRConfig, AIRForPuzzleSolving, variant_config
from air_hf.variants import CONFIG_FIELDS, REFERENCE_NAMES, VARIANTS


@pytest.mark.parametrize(
    ("name", "n_l", "n_h"),
    [("L_Hx", 0, 1), ("Lx_H", 1, 0), ("L_H2x", 0, 2), ("L2x_H", 2, 0),
     ("Lx_H2x", 1, 2), ("L2x_Hx", 2, 1), ("Lx_Hx", 1, 1), ("L2x_H2x", 2, 2)],
)  # fmt: skip
def test_injection_variants(name, n_l, n_h):
    config = variant_config(name, vocab_size=11, seq_len=81)
    assert (config.l_injections, config.h_injections) == (n_l, n_h)
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (512, 4, 1536)
    assert (config.prefix_len, config.prefix_dim) == (1, 512)


def test_variants_differ_and_round_trip():
    configs = {name: variant_config(name).to_dict() for name in VARIANTS}
    assert len(configs) == 18
    assert len({str(config) for config in configs.values()}) == 18
    for config in configs.values():
        assert AIRConfig.from_dict(config).to_dict() == config
    for theirs, ours in REFERENCE_NAMES.items():
        assert variant_config(theirs).to_dict() == configs[ours]


def test_trm_keeps_sixteen_prefix_positions():
    config = variant_config("trm-mlp", hidden_size=32)
    assert (config.prefix_len, config.prefix_dim, config.num_positions) == (16, 32, 97)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"unknown variant 'lx_h'; known variants: L_Hx, Lx_H, .*trm-mlp"):
        variant_config("lx_h")
    with pytest.raises(ValueError, match=r"unknown config fields hidden; known fields: vocab_size, seq_len"):
        variant_config("Lx_H", hidden=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 5}, r"num_attention_heads \(5\) does not divide hidden_size \(512\)"),
        ({"l_injections": 3}, r"l_injections is 3; the input enters an update 0, 1 or 2 times"),
        ({"h_injections": -1}, r"h_injections is -1"),
        ({"hidden_size": "512"}, r"hidden_size.*expected int, got str"),
        ({"level_token": "append"}, r"level_token.*append"),
        ({"mixer": "mlp"}, r'position_embedding="rotary".*mixer is "mlp"'),
        ({"mixer": "convolution", "position_embedding": "none"}, r'mixer is "convolution" but no puzzle is given'),
        (
            {"input_operator": "linear", "l_injections": 0, "h_injections": 1},
            r'input_operator is "linear" but l_injections is 0',
        ),
        ({"input_operator": "hadamard", "l_injections": 2}, r'"hadamard" multiplies once; l_injections is 2'),
        ({"hidden_size": 24, "num_attention_heads": 8}, r"hidden_size 24 over num_attention_heads 8 is 3"),
        ({"prefix_len": 2, "prefix_dim": 1025}, r"prefix_dim \(1025\) must lie between 0 and .*1024"),
        ({"prefix_len": 0, "prefix_dim": 4}, r"prefix_dim \(4\)"),
        ({"l_injections": 0, "h_injections": 0}, r"are both 0; the model would never see the question"),
        ({"max_segments": 0}, r"max_segments is 0; it must be at least 1"),
        ({"expansion": 0.0}, r"expansion \(0\.0\)"),
        ({"expansion": float("nan")}, r"expansion \(nan\)"),
        ({"expansion": float("inf")}, r"expansion is inf; it must be at most 1024"),
        ({"vocab_size": 10**12}, r"vocab_size is 1000000000000; it must be at most 1048576"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers is 1000000000; it must be at most 1024"),
        ({"h_cycles": 10**9}, r"h_cycles is 1000000000; it must be at most 1024"),
        ({"hidden_size": 2**16, "num_hidden_layers": 100}, r"ask for [\d,]+ parameters; the limit is 17,179,869,184"),
        ({"num_puzzle_ids": -5}, r"num_puzzle_ids is -5; it must be at least 1"),
        ({"puzzle": "sudoku-6x6"}, r"puzzle 'sudoku-6x6' is no board of seq_len 81 cells"),
        ({"puzzle": "maze-9999999999x1"}, r"puzzle 'maze-9999999999x1' is no board"),
    ],
)
def test_impossible_configs(fields, message):
    with pytest.raises(StrictDataclassError, match=re.compile(message, re.DOTALL)):
        AIRConfig(**fields)


def test_a_hostile_config_file_is_refused_at_once(tmp_path):
    """transformers makes a name for each label: ten million take a minute."""
    fields = AIRConfig().to_dict() | {"num_labels": 10**9}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="num_labels is 1000000000; a puzzle solver has no labels"):
        AIRConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_counted_from_the_fields(name):
    fields = {"hidden_size": 64, "num_attention_heads": 4, "seq_len": 20, "num_puzzle_ids": 3, "num_hidden_layers": 1}
    config = variant_config(name, vocab_size=7, **fields)
    assert AIRForPuzzleSolving(config).num_parameters() == config.num_weights


def test_level_token_with_any_injection_is_data():
    assert variant_config("Lx_H", level_token="add").level_token == "add"


def test_every_field_is_read():
    """No field is accepted and ignored; the puzzle's options are for the tools around the model."""
    model = (Path(__file__).parent.parent / "modeling" / "modeling_air.py").read_text()
    config = inspect.getsource(AIRConfig).replace(inspect.getsource(AIRConfig.validate_architecture), "")
    for name in set(CONFIG_FIELDS) - {"puzzle", "puzzle_options"}:
        reads = re.findall(rf"config\.{name}\b", model) + re.findall(rf"self\.{name}\b(?! = )", config)
        assert reads, f"{name} is never read"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"l_cycles": 0}, "l_cycles is 0; it must be at least 1"),
        ({"l_injections": 0}, "are both 0; the model would never see the question"),
        ({"puzzle": "sudoku-9x9"}, "puzzle 'sudoku-9x9' is no board of seq_len 16 cells"),
    ],
)
def test_fields_that_a_model_is_loaded_with_are_checked(make_model, tmp_path, fields, message):
    """transformers sets them on a configuration that is made, and checked, already."""
    make_model(puzzle="sudoku-4x4", h_injections=0, l_injections=1).save_pretrained(tmp_path)
    for load in (AutoModel.from_pretrained, lambda *args, **kw: AutoModel.from_config(set_fields(*args, **kw))):
        with pytest.raises(StrictDataclassError, match=message):
            load(tmp_path, **fields)


def set_fields(folder, **fields):
    config = AIRConfig.from_pretrained(folder)
    for name, value in fields.items():
        setattr(config, name, value)
    return config
