"""The CPU cores that a process may use."""

import os

# What torchrun and the launchers of MPI call the number of processes on this machine.
_LOCAL_PROCESSES = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")


def usable_cores() -> int:
    """Cores that this process may run on: of a machine that is shared by taskset, Slurm or a cpuset, not all."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_a_process(num_processes: int) -> int:
    """This process's share of them, at least one, where it is one of `num_processes` on all machines."""
    here = next((int(os.environ[name]) for name in _LOCAL_PROCESSES if name in os.environ), num_processes)
    return max(1, usable_cores() // here)
