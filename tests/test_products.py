"""float32 products by oneDNN where MKL is slow; the setting is a process's, so one of its own is looked at."""

import os
import re
import subprocess
import sys

import pytest
import torch

from air_hf import products

MULTIPLY = """
import torch
from air_hf.products import use_wide_float32_products

torch.manual_seed(0)
a, b = torch.randn(2, 192, 192)
is_wide = use_wide_float32_products()
print("set:", is_wide, torch.get_float32_matmul_precision())
print("error:", (a @ b - a.double() @ b.double()).abs().max().item())
"""
SUITS = {"cpu_name": "AMD EPYC", "avx512_bw": True, "avx512_vl": True, "avx512_dq": True, "amx_bf16": False}


def test_products_are_exact_and_onednns_where_it_was_asked():
    command, environment = [sys.executable, "-c", MULTIPLY], {**os.environ, "ONEDNN_VERBOSE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    values = dict(re.findall(r"^(set|error): (.*)$", result.stdout, re.MULTILINE))
    # Sums of 192 products of about 1: bfloat16 would be wrong by 0.1.
    assert 0 < float(values["error"]) < 5e-5
    if values["set"] == "True medium":
        assert re.search(r"matmul,.*192x192:192x192", result.stdout)  # oneDNN says what it multiplies
    else:
        assert values["set"] == "False highest"


@pytest.fixture
def processor(monkeypatch):
    """Sets what the processor says of itself, on a machine without a GPU; gives what the process then multiplies by."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(products, "_are_products_exact", lambda: True)
    return lambda **units: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)


def test_amds_wide_vectors_suit(processor):
    processor(**SUITS)
    assert products.use_wide_float32_products()
    assert products.use_wide_float32_products()  # again, as a command that trains does
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(
    "other",
    [{"cpu_name": "Intel Xeon"}, {"amx_bf16": True}, {"avx512_dq": False}, {"avx512_bw": None}, {"cpu_name": ""}],
)
def test_other_processors_are_left_alone(processor, other):
    processor(**{**SUITS, **other})
    assert products.use_wide_float32_products() is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_torch_that_does_not_tell_is_left_alone(processor, monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert products.use_wide_float32_products() is False
    processor()  # tells nothing
    assert products.use_wide_float32_products() is False


def test_a_gpu_is_left_alone(processor, monkeypatch):
    processor(**SUITS)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert products.use_wide_float32_products() is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_products_that_are_rounded_are_given_up(processor, monkeypatch):
    processor(**SUITS)
    monkeypatch.setattr(products, "_are_products_exact", lambda: False)
    assert products.use_wide_float32_products() is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_check_sees_rounding(monkeypatch):
    assert products._are_products_exact()
    multiply = torch.Tensor.__matmul__
    rounded = lambda a, b: multiply(a.bfloat16(), b.bfloat16()).float()  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not products._are_products_exact()
