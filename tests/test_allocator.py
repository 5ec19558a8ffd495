"""Freed memory stays with the process: page faults are counted, by the system, in a process of its own."""

import platform
import resource
import subprocess
import sys

import pytest

from air_hf import allocator

COUNT_FAULTS = """
import resource, sys
import torch
from air_hf.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
    assert keep_freed_memory()  # again, as a command that trains does
torch.set_num_threads(1)
for step in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(10 * 2**20) for _ in range(2)]  # 40 MiB each, above the size (32) to which glibc keeps some
    del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, whose allocator is left alone")
@pytest.mark.parametrize("how", ["kept", "given back"])
def test_a_step_takes_the_memory_of_the_step_before(how):
    result = subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True)
    later = [int(count) for count in result.stdout.split()][4:]  # by then the heap has grown to what a step needs
    pages = 2 * 40 * 2**20 // resource.getpagesize()
    if how == "kept":
        assert max(later) < pages / 100
    else:  # else the other case would show nothing
        assert min(later) > pages / 2


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("its allocator was touched"))
    assert allocator.keep_freed_memory() is False
