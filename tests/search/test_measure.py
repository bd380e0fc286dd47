"""Kernels are really built, run on arguments that fit, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from espalier.errors import UnavailableError, UsageError
from espalier.runtime.threads import set_threads
from espalier.schedules import Epilogue, LinearKernel, LinearWork, linear_candidates
from espalier.search.measure import Local, arguments_of, build, measure, packed, race
from espalier.search.remote import Remote, connect
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
    """Whatever was set before: of two threads that share the work one's own time is but half of it.

    In a thread of its own, as TVM's pool of a thread that has run a kernel before keeps that size.
    """
    import tvm

    def used() -> int:
        set_threads(3 - threads)
        kernel = kernels(Dense(), "tiles")[0]
        Local(host(), threads).load(kernel, 32)(1)
        return tvm.get_global_func("runtime.NumThreads")()

    with ThreadPoolExecutor(1) as own:
        assert own.submit(used).result() == threads


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


def reached(tracker: str) -> Remote:
    """The machine `here`, as soon as it is up."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return connect(host(), 1, tracker, "here")
        except UnavailableError:
            assert time.monotonic() < deadline
            time.sleep(1)


@pytest.mark.slow
def test_another_machine_runs_and_times_kernels(tracker: str) -> None:
    import tvm

    machine = reached(tracker)
    # all are loaded before the first is run
    both = [kernels(structure, "tokens")[-1] for structure in (HP(8, 12, 4, 2), BP(8, 12))]
    modules = [machine.module(kernel) for kernel in both]
    for kernel, module in zip(both, modules, strict=True):
        x, *others, y = (
            tvm.runtime.tensor(one, machine.session.cpu()) if isinstance(one, np.ndarray) else one
            for one in arguments_of(kernel, 21)
        )
        module["kernel"](x, *others, y)
        bias, residual = (one.numpy() for one in others[-2:])
        wanted = np.maximum(x.numpy() @ packed(kernel.work).unpack().T + bias, 0) + residual
        np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-4, atol=1e-4)
    times = measure(machine, both, both[0], 21)
    assert times.keys() == set(both) and all(ms > 0 for ms in times.values())


@pytest.mark.slow
def test_a_key_that_no_machine_has_and_too_many_threads(tracker: str) -> None:
    reached(tracker)  # and let go of
    with pytest.raises(
        UnavailableError, match=r"machine 'here' .* runs \d+ thread\(s\), expected 500"
    ) as caught:
        connect(host(), 500, tracker, "here")
    assert "TVM_NUM_THREADS=500" in caught.value.hint
    with pytest.raises(UnavailableError, match=r"no machine 'hare' behind .* it has: here") as caught:
        connect(host(), 1, tracker, "hare")
    assert caught.value.hint == "did you mean here?"


class Gone:
    """A session whose machine is switched off once the kernel is there."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def upload(self, path: str) -> None:
        self.files.append(Path(path).name)

    def load_module(self, name: str) -> object:
        raise RuntimeError(f"trace\nno answer for {name}")


def test_a_machine_that_fails_is_told_of() -> None:
    session = Gone()
    machine = Remote(host(), session)
    for number in (1, 2):
        with pytest.raises(UnavailableError, match=f"failed: no answer for kernel{number}.so") as caught:
            machine.load(kernels(BP(8, 12), "tiles")[0], 21)
        assert "is kept" in caught.value.hint
    assert session.files == ["kernel1.so", "kernel2.so"]


def test_a_tracker_that_is_not_there() -> None:
    with pytest.raises(UnavailableError, match="no machine 'k' behind"):
        connect(host(), 1, "127.0.0.1:1", "k")
    for wrong in ("here", "here:", ":1", "here:99999", "here:-1"):
        with pytest.raises(UsageError, match="host:port"):
            connect(host(), 1, wrong, "k")
