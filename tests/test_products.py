"""float32 products by oneDNN where MKL is slow; the setting is a process's, so one of its own is looked at."""

import os
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
print("set", use_wide_float32_products(), torch.get_float32_matmul_precision())
exact = a.double() @ b.double()
print("error", (a @ b - exact).abs().max().item())
print("compiled", (torch.compile(torch.matmul)(a, b) - exact).abs().max().item())
"""
SUITS = {"cpu_name": "AMD EPYC", "avx512_bw": True, "avx512_vl": True, "avx512_dq": True, "amx_bf16": False}


def test_products_are_onednns_and_exact_where_the_processor_suits():
    units = torch.cpu.get_capabilities()
    suits = {**SUITS, "cpu_name": units["cpu_name"]}.items() <= units.items()
    suits = suits and "AMD" in units["cpu_name"] and not torch.cuda.is_available()
    command, environment = [sys.executable, "-c", MULTIPLY], {**os.environ, "ONEDNN_VERBOSE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = result.stdout.splitlines()
    values = dict(line.split(" ", 1) for line in lines if not line.startswith("onednn"))
    assert values["set"] == ("True medium" if suits else "False highest")
    assert any("192x192:192x192" in line and "src:f32" in line for line in lines) is suits  # who multiplied
    # Sums of 192 products of about 1: bfloat16 would be wrong by 0.1.
    assert 0 < float(values["error"]) < 5e-5
    assert 0 < float(values["compiled"]) < 5e-5


@pytest.fixture
def processor(monkeypatch):
    """Sets what the processor says of itself, on a machine without a GPU; gives what the process then multiplies by."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(products, "_are_products_exact", lambda: True)
    return lambda **units: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)


def test_amds_wide_vectors_suit(processor):
    processor(**SUITS)
    assert products.use_wide_float32_products()
    assert products.use_wide_float32_products()  # again, as a command that trains does
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize(
    "other", [{"cpu_name": "Intel Xeon"}, {"amx_bf16": True}, {"avx512_dq": False}, {"avx512_bw": None}]
)
def test_other_processors_are_left_alone(processor, other):
    processor(**{**SUITS, **other})
    assert products.use_wide_float32_products() is False
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_gpu_is_left_alone(processor, monkeypatch):
    processor(**SUITS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert products.use_wide_float32_products() is False


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
