"""The verbs as functions. The command line is thin over these; heavy modules are imported inside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espalier.errors import UsageError, unknown

if TYPE_CHECKING:
    from espalier.package import Package
    from espalier.targets.cpu import Cpu


DTYPES = ("float32",)
"""Data types that kernels can be compiled for."""

FORMATS = ("dense", "csr", "bcsr", "bitmap", "hp")
"""What the size of a weight is told in."""


@dataclass(frozen=True)
class WeightReport:
    """What one weight of a linear layer is. `shape` is [N, K] of y = x W^T, whatever ONNX stores."""

    name: str
    nodes: tuple[str, ...]
    shape: tuple[int, int]
    structure: str
    label: str
    """The structure with its parameters, for people."""
    params: Mapping[str, Any]
    sparsity: float
    """Fraction of exact zeros."""
    bytes: Mapping[str, int | None]
    """By format: dense, csr, bcsr, bitmap, hp (None where the matrix is no HP)."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "node": self.nodes[0] if len(self.nodes) == 1 else list(self.nodes),
            "shape": list(self.shape),
            "structure": self.structure,
            "params": dict(self.params),
            "sparsity": self.sparsity,
            "bytes": dict(self.bytes),
        }


@dataclass(frozen=True)
class Inspection:
    """Every weight of a model's linear layers."""

    weights: tuple[WeightReport, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"weights": [weight.to_dict() for weight in self.weights]}


def inspect(model: str | Path) -> Inspection:
    """Detects what each weight of a model is.

    Raises ModelError where the file is no model that can be read.
    """
    from espalier.passes.frontend import linear_weights, read_model
    from espalier.sparsity import detect, sizes

    reports = []
    for weight in linear_weights(read_model(Path(model))):
        found = detect(weight.matrix)
        apart = found.remainder.count if found.remainder else 0
        exact = sizes(weight.matrix, found.structure, apart=apart)
        reports.append(
            WeightReport(
                name=weight.name,
                nodes=tuple(weight.nodes),
                shape=(int(weight.matrix.shape[0]), int(weight.matrix.shape[1])),
                structure=found.name,
                label=found.label(),
                params=found.params(),
                sparsity=float((weight.matrix == 0).mean()) if weight.matrix.size else 0.0,
                bytes={name: exact.get(name) for name in FORMATS},
            )
        )
    return Inspection(tuple(reports))


@dataclass(frozen=True)
class Compilation:
    """A package and how it came about."""

    package: Package
    dumps: Mapping[str, str]
    """Kind of code to its text."""
    pass_seconds: Mapping[str, float]
    seconds: float


def compile(model: str | Path, **options: Any) -> Package:
    """Compiles a model into a package; the options are those of `compile_model`.

    Raises ModelError for a model that cannot be read, UsageError for an option that does not fit it.
    """
    return compile_model(model, **options).package


def compile_model(
    model: str | Path,
    *,
    target: Cpu | str | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    max_shape: Mapping[str, Sequence[int]] | None = None,
    dtype: str = "float32",
    threads: int | None = None,
    dump_code: Sequence[str] = (),
    pass_config: Mapping[str, Any] | None = None,
    disabled_pass: Sequence[str] = (),
    print_ir_before: Sequence[str] = (),
    print_ir_after: Sequence[str] = (),
) -> Compilation:
    """Compiles a model and tells how; `espalier compile` explains the options.

    Raises ModelError for a model that cannot be read, UsageError for an option that does not fit it.
    """
    from espalier.runtime.library import without
    from espalier.targets.host import host
    from espalier.targets.parse import parse_target

    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} cannot be compiled", hint=unknown("dtype", dtype, DTYPES))
    cpu = host() if target is None else parse_target(target) if isinstance(target, str) else target
    # TVM imports torch where it is installed, which takes seconds, and needs it for nothing here
    with without("torch"):
        from espalier.compiler import compile_onnx
        from espalier.passes import pipeline  # noqa: F401
    return compile_onnx(
        Path(model),
        cpu,
        input_shapes=input_shapes,
        max_shape=max_shape,
        threads=threads or cpu.cores,
        dump_code=dump_code,
        pass_config=pass_config or {},
        disabled_pass=disabled_pass,
        print_ir_before=print_ir_before,
        print_ir_after=print_ir_after,
    )
