"""From a lowered Relax module to a shared library for an x86 CPU, by TVM and LLVM."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.codegen.generator import Product, Request
from espalier.errors import UnavailableError, UsageError, unknown
from espalier.targets.cpu import Cpu

if TYPE_CHECKING:
    import tvm

    from espalier.passes.state import State

DUMPS = ("relax", "tir", "ll", "asm")
CALIBRATED = False


@dataclass(frozen=True)
class Built:
    """A shared library that holds a Relax executable, with the texts asked for on the way."""

    library: bytes
    dumps: Mapping[str, str]
    """Kind of code ("relax", "tir", "ll", "asm") to its text."""


def generate(state: State, target: Cpu, request: Request) -> Product:
    """The code of a CPU. Raises as `build` does."""
    built = build(state.mod, target, dump=request.dump, config=request.config)
    return Product(built.library, built.dumps)


def build(
    mod: tvm.IRModule, cpu: Cpu, *, dump: Sequence[str] = (), config: Mapping[str, Any] | None = None
) -> Built:
    """Compile `mod` for `cpu`. The same module gives the same bytes.

    Raises UsageError for a setting that TVM's PassContext does not know, UnavailableError without a linker.
    """
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu.mcpu})
    context = _context(config or {})
    with context, target:
        lowered = _lower(mod)
        executable = tvm.relax.build(lowered, target, relax_pipeline=_finish())
    machine_code = executable.mod.imports[0] if executable.mod.imports else None
    texts = {
        "relax": lambda: mod.script(show_meta=False),
        "tir": lambda: lowered.script(show_meta=False),
        "ll": lambda: machine_code.inspect_source("ll") if machine_code is not None else "",
        "asm": lambda: machine_code.inspect_source("asm") if machine_code is not None else "",
    }
    return Built(_link(executable), {kind: texts[kind]() for kind in dump})


def _context(config: Mapping[str, Any]) -> Any:
    import tvm

    known = tvm.transform.PassContext.list_configs()
    for name in config:
        if name not in known:
            raise UsageError(
                f"--pass-config: TVM has no setting {name!r}", hint=unknown("a setting", name, known)
            )
    try:
        return tvm.transform.PassContext(opt_level=3, config=dict(config))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--pass-config: TVM refuses {dict(config)}: {str(error).splitlines()[-1]}",
            hint="look up the type of the setting in TVM's documentation",
        ) from error


def _lower(mod: tvm.IRModule) -> tvm.IRModule:
    """What has no kernel of ours becomes TIR, fused where TVM can, and gets a schedule."""
    from tvm import relax, transform

    from espalier.schedules.x86.default import schedule_leftovers
    from espalier.schedules.x86.functions import legalizations

    steps = [
        relax.transform.LegalizeOps(legalizations()),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    return schedule_leftovers(transform.Sequential(steps)(mod))


def _finish() -> Any:
    from tvm import relax, transform

    from espalier.codegen.outputs import named_outputs
    from espalier.codegen.shape_functions import ordered_shape_functions

    return transform.Sequential(
        [
            named_outputs,
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            ordered_shape_functions,
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def _link(executable: Any) -> bytes:
    from tvm.support.cc import get_cc

    install = "a C++ compiler is needed: apt-get install g++"
    if get_cc() is None:
        raise UnavailableError("linking failed: no C++ compiler is on the PATH", hint=install)
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        path = Path(folder) / "mod.so"
        try:
            executable.export_library(str(path))
        except (RuntimeError, OSError, ValueError) as error:
            raise UnavailableError(
                f"linking failed: {str(error).strip().splitlines()[-1]}",
                hint=install,
            ) from error
        return path.read_bytes()
