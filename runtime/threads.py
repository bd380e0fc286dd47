"""How many threads TVM's pool uses for the calls of this thread."""

from __future__ import annotations

import os
from threading import local

from espalier.runtime.library import ffi
from espalier.targets.host import host

SHARE_ALL_CORES = -3
"""TVM's affinity mode in which the number of CPUs named is the number of workers."""

_pools = local()


def set_threads(count: int | None) -> None:
    """Sets the number of threads; None is one for every core that this process may use.

    TVM keeps one pool a calling thread and never grows it, so the pool is first made as large as the machine.
    """
    wanted = host().cores if count is None else count
    if not hasattr(_pools, "made"):
        _configure(max(len(os.sched_getaffinity(0)), wanted))
        _pools.made = True
    _configure(wanted)


def _configure(count: int) -> None:
    ffi().get_global_func("runtime.config_threadpool")(
        SHARE_ALL_CORES, count, [str(index) for index in range(count)]
    )
