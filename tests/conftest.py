"""What every test shares: the tiers are checked, hypothesis is tamed, a missing device skips."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from espalier.package import Package

TIERS = ("unit", "compile", "gpu", "bench")

# Two workers on two cores: a kernel's own threads would only fight the other worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is compiled in one run must not come from another one.
os.environ["ESPALIER_CACHE"] = ""

# A background job of a script starts deaf to interrupts, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Compiling inside a property takes as long as it takes; a failure on CI must come back on a desk.
settings.register_profile(
    "espalier", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("espalier")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test without a tier (no `make` goal would run it) and skip what needs an absent device."""
    lost = [item.nodeid for item in items if not any(item.get_closest_marker(tier) for tier in TIERS)]
    if lost:
        raise pytest.UsageError(f"no marker of {', '.join(TIERS)} on: {', '.join(lost[:5])}")
    if any(item.get_closest_marker("gpu") for item in items) and not _has_cuda():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


def _has_cuda() -> bool:
    """Whether the NVIDIA driver lists a device."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


@pytest.fixture(scope="session")
def tiny_package() -> Package:
    """A package compiled by hand for any x86-64: y = relu(x W), W f32[8, 4] of 0..31; next_ids = ids + 1.

    x is f32 [batch, 8], ids int64 [batch, length]; batch is 1 to 8, length 1 to 64.
    """
    import tvm
    from tvm import relax

    from espalier.package import Package
    from espalier.package.metadata import target_info
    from espalier.targets.parse import parse_target

    batch, length = (tvm.tirx.Var(name, "int64") for name in ("batch", "length"))
    x = relax.Var("x", relax.TensorType((batch, 8), "float32"))
    ids = relax.Var("ids", relax.TensorType((batch, length), "int64"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, ids], attrs={"num_input": 2}):
        with builder.dataflow():
            weight = relax.const(np.arange(32, dtype="float32").reshape(8, 4))
            y = builder.emit(relax.op.nn.relu(relax.op.matmul(x, weight)))
            next_ids = builder.emit(relax.op.add(ids, relax.const(1, "int64")))
            result = builder.emit_output(relax.Tuple([y, next_ids]))
        builder.emit_func_output(result)
    cpu = parse_target("x86-64-v2")
    compiled = tvm.compile(builder.get(), tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu}))
    with tempfile.TemporaryDirectory() as folder:
        compiled.export_library(f"{folder}/mod.so")
        module = Path(folder, "mod.so").read_bytes()
    return Package.build(
        module,
        producer="a test",
        tvm_version=tvm.__version__,
        target=target_info(cpu),
        inputs=[
            {"name": "x", "shape": ("batch", 8), "dtype": "float32"},
            {"name": "ids", "shape": ("batch", "length"), "dtype": "int64"},
        ],
        outputs=[
            {"name": "y", "shape": ("batch", 4), "dtype": "float32"},
            {"name": "next_ids", "shape": ("batch", "length"), "dtype": "int64"},
        ],
        dims={"batch": {"min": 1, "max": 8}, "length": {"min": 1, "max": 64}},
        layers=[],
    )


@pytest.fixture
def tracker() -> Iterator[str]:
    """A tracker with a machine that is known as `here`: what tvm.exec.rpc_tracker and rpc_server start."""
    pytest.importorskip("tornado")
    pytest.importorskip("cloudpickle")
    from tvm.rpc.server import Server
    from tvm.rpc.tracker import Tracker

    one = Tracker("127.0.0.1", port=19190, port_end=19990, silent=True)
    server = Server(
        "127.0.0.1", port=20190, port_end=20990, key="here", tracker_addr=("127.0.0.1", one.port), silent=True
    )
    yield f"127.0.0.1:{one.port}"
    server.terminate()
    one.terminate()
