"""Which library multiplies float32 matrices on a CPU."""

import torch

# What oneDNN's kernels for float32 want; PyTorch does not ask it on lesser processors.
_VECTOR_UNITS = ("avx512_bw", "avx512_vl", "avx512_dq")


def use_wide_float32_products() -> bool:
    """Lets oneDNN instead of MKL multiply float32 matrices on AMD's processors; training and the commands call it.

    There MKL uses vectors of 256 bits where the processor has 512: with oneDNN square products were 2.2 times as fast,
    training and solving in float32 1.5 to 2.1 times (docs/performance.md). PyTorch asks oneDNN for these products where
    it may round to bfloat16 within them (`torch.set_float32_matmul_precision("medium")`, the process's setting, which
    this replaces), which it does with AMX units only: without, results are those of float32, summed in another order.
    Where there are AMX units, another maker's processor, or a GPU or the like, for which "medium" has another meaning,
    nothing is changed.

    Returns:
        whether it is so now.
    """
    units = getattr(torch.cpu, "get_capabilities", dict)()  # older releases do not tell
    suits = "AMD" in units.get("cpu_name", "") and all(units.get(unit) for unit in _VECTOR_UNITS)
    if not suits or units.get("amx_bf16") or torch.accelerator.is_available():
        return False
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if _are_products_exact():
        return True
    torch.set_float32_matmul_precision(before)
    return False


def _are_products_exact() -> bool:
    """Whether products keep what bfloat16's eight bits cannot hold: numbers times one are the same numbers.

    A sample of those in use: of a matrix, of a transposed one, of a batch.
    """
    values, one = 1 + torch.arange(64.0 * 64).view(64, 64) / 2**16, torch.eye(64)
    batch = torch.stack((values, values.t()))
    return all(torch.equal(each @ one, each) for each in (values, values.t(), batch))
