"""Kernels are really built, run on arguments that fit, and timed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from espalier.errors import UnavailableError, UsageError
from espalier.runtime.threads import set_threads
from espalier.schedules import Epilogue, LinearKernel, LinearWork, linear_candidates
from espalier.search.measure import Local, arguments_of, build, measure, packed, race
from espalier.search.remote import connect
from espalier.sparsity import BP, HP, Dense, Structure, Unstructured
from espalier.targets.host import host

pytestmark = pytest.mark.compile

N, K = 40, 48
FULL = Epilogue(bias=True, activation="relu", residual=True)


def kernels(structure: Structure, layout: str) -> list[LinearKernel]:
    return linear_candidates(LinearWork(N, K, structure, FULL, layout), host())  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["tiles", "tokens"])
@pytest.mark.parametrize("structure", [Dense(), BP(8, 12), HP(8, 12, 4, 2), Unstructured(200)])
def test_arguments_fit_the_function(structure: Structure, layout: str) -> None:
    for kernel in kernels(structure, layout):
        arguments = arguments_of(kernel, 21)
        arrays = [one for one in arguments if isinstance(one, np.ndarray)]
        assert len(arguments) == len(kernel.func("k").params)
        shape = (2, K, 16) if layout == "tiles" else (21, K)
        assert arrays[0].shape == shape
        assert arrays[-1].shape == ((2, N, 16) if layout == "tiles" else (21, N))
        for wanted, got in zip(kernel.pack(packed(kernel.work)), arrays[1:], strict=False):
            np.testing.assert_array_equal(wanted, got)


def test_what_is_timed_is_the_kernel() -> None:
    """The result of the last call is the layer's."""
    import tvm

    kernel = kernels(HP(8, 12, 4, 2), "tokens")[0]
    arguments = arguments_of(kernel, 21, tvm.runtime.tensor)
    build(kernel, host())["kernel"](*arguments)
    x, bias, residual, y = (arguments[i].numpy() for i in (0, -3, -2, -1))
    wanted = np.maximum(x @ packed(kernel.work).unpack().T + bias, 0) + residual
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)


def test_a_kernel_is_timed_here() -> None:
    kernel = linear_candidates(LinearWork(256, 256, Dense()), host())[0]
    times = measure(Local(host(), 1), [kernel], kernel, 16)
    assert list(times) == [kernel] and times[kernel] > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_runs_on_as_many_threads_as_are_timed(threads: int) -> None:
    """Whatever else was done before: of two threads that share the work one's own time is but half of it."""
    import tvm

    set_threads(3 - threads)
    kernel = kernels(Dense(), "tiles")[0]
    run = Local(host(), threads).load(kernel, 32)
    run(1)
    assert tvm.get_global_func("runtime.NumThreads")() == threads


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def contestant(name: str, seconds: float) -> Callable[[int], float]:
        def run(count: int) -> float:
            order.append(name)
            return seconds

        return run

    samples = race({"a": contestant("a", 1e-3), "b": contestant("b", 2e-3)}, rounds=4)
    assert samples == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert order[4:] == ["a", "a", "b", "b", "b", "b", "a", "a"] * 2


@pytest.fixture
def tracker() -> Iterator[str]:
    """A tracker with a server that is known as `here`."""
    pytest.importorskip("tornado")
    pytest.importorskip("cloudpickle")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    address = f"127.0.0.1:{ports[0]}"
    servers = [
        ["tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(ports[0])],
        ["tvm.exec.rpc_server", "--host", "127.0.0.1", "--port", str(ports[1]), "--tracker", address],
    ]
    servers[0] += ["--port-end", str(ports[0] + 1)]
    servers[1] += ["--key", "here"]
    running = [
        subprocess.Popen([sys.executable, "-m", *one], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for one in servers
    ]
    yield address
    for process in running:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.slow
def test_another_machine_times_kernels(tracker: str, tmp_path: Path) -> None:
    kernel, other, *_ = kernels(HP(8, 12, 4, 2), "tiles")
    deadline = time.monotonic() + 60
    while True:
        try:
            machine = connect(host(), 1, tracker, "here")
            break
        except UnavailableError:
            assert time.monotonic() < deadline
            time.sleep(1)
    times = measure(machine, [other], kernel, 21)
    assert times.keys() == {kernel, other} and all(0 < ms < 100 for ms in times.values())


def test_a_tracker_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="no machine 'k' behind"):
        connect(host(), 1, "127.0.0.1:1", "k")
    for wrong in ("here", "here:", ":1", "here:99999", "here:-1"):
        with pytest.raises(UsageError, match="host:port"):
            connect(host(), 1, wrong, "k")
