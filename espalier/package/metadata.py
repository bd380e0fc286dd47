"""metadata.json of a package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from espalier.errors import DataError
from espalier.runtime.signature import Signature, Tensor
from espalier.targets.fpga.accelerator import Accelerator

if TYPE_CHECKING:
    from espalier.targets.target import Target

FORMAT_VERSION = 1
REPACK = "compile the model again with this version of Espalier"

Name = Annotated[str, Field(max_length=4096)]
Length = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
DType = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]


class Part(BaseModel):
    """What all parts of the metadata have in common: immutable, and nothing unknown in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TargetInfo(Part):
    """What the package was compiled for."""

    kind: Name
    name: Name
    arch: Name
    mcpu: Name
    isa: Name
    features: tuple[Name, ...]
    """Instructions that the machine must have, as /proc/cpuinfo names them."""
    cores: Annotated[int, Field(ge=1)]


def target_info(target: Target) -> TargetInfo:
    """What a package says of what it is compiled for: the CPU that runs its code, under the target's name."""
    fields = {name: getattr(target.host, name) for name in TargetInfo.model_fields if name != "kind"}
    return TargetInfo(kind=target.kind, **{**fields, "name": target.name})


class TensorInfo(Part):
    """An input or output; a name in the shape is a symbolic dimension."""

    name: Name
    shape: Annotated[tuple[Length | Name, ...], Field(max_length=32)]
    dtype: DType


class Bounds(Part):
    """Least and most of a symbolic dimension."""

    min: Length
    max: Length


class LayerInfo(Part):
    """What was chosen for a linear layer."""

    name: Name
    structure: Name
    kernel: Name
    candidates: dict[Name, Milliseconds]
    how: Literal["predicted", "measured", "rule"]
    measured: tuple[Name, ...] = ()
    """The candidates whose time is measured."""
    nonzeros: Length = 0
    """Weights that are not zero: multiply-adds a token that count."""
    rows: Annotated[tuple[Length | Name, ...], Field(max_length=32)] | None = None
    """Factors of the number of tokens, names being symbolic dimensions; None where it is no such product."""


class MemberInfo(Part):
    """A member's size in bytes and digest."""

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Metadata(Part):
    """The whole of metadata.json."""

    format_version: Literal[1]
    producer: Name
    tvm_version: Name
    target: TargetInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    dims: dict[Name, Bounds]
    layers: tuple[LayerInfo, ...]
    error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Of the outputs on the samples (root mean square, relative), where layers are rounded to integers."""
    accelerator: Accelerator | None = None
    """What a device beside the CPU runs."""
    members: dict[Name, MemberInfo]

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Metadata:
        for tensors in (self.inputs, self.outputs):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) != len(names):
                raise ValueError("two tensors have one name")
        for tensor in self.inputs:
            unbounded = [dim for dim in tensor.shape if isinstance(dim, str) and dim not in self.dims]
            if unbounded:
                raise ValueError(f"dimension {unbounded[0]!r} of input {tensor.name!r} has no bounds")
        known = {dim for tensor in self.inputs for dim in tensor.shape}
        for layer in self.layers:
            strange = [dim for dim in layer.rows or () if isinstance(dim, str) and dim not in known]
            if strange:
                raise ValueError(f"layer {layer.name!r} has rows {strange[0]!r}, no dimension of an input")
        for name, bounds in self.dims.items():
            if bounds.min > bounds.max:
                raise ValueError(f"bounds of dimension {name!r} are {bounds.min} to {bounds.max}")
        return self

    def to_bytes(self) -> bytes:
        """The same metadata gives the same bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()

    @property
    def signature(self) -> Signature:
        """What the runtime needs of it."""

        def tensors(infos: tuple[TensorInfo, ...]) -> tuple[Tensor, ...]:
            return tuple(Tensor(info.name, info.shape, info.dtype) for info in infos)

        dims = {name: (bounds.min, bounds.max) for name, bounds in self.dims.items()}
        return Signature(tensors(self.inputs), tensors(self.outputs), dims)


def parse_metadata(content: bytes, where: str) -> Metadata:
    """metadata.json of the package `where`.

    Raises DataError where it is not of this format, saying which field, or of a newer version.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: metadata.json is not JSON: {error}", hint=REPACK) from None
    version = value.get("format_version") if isinstance(value, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise DataError(
            f"{where}: format version {version!r:.40}, expected {FORMAT_VERSION}",
            hint="install a newer Espalier to read it" if newer else REPACK,
        )
    try:
        return Metadata.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DataError(f"{where}: metadata.json, {field[:200]}: {first['msg']}", hint=REPACK) from None
