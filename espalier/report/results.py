"""What the verbs leave as JSON, as far as the report shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Bytes(BaseModel):
    """Sizes of one weight."""

    dense: int
    csr: int
    hp: int | None = None


class Weight(BaseModel):
    """A row of `inspect --json`."""

    name: str
    shape: list[int]
    structure: str
    params: dict[str, object] = Field(default_factory=dict)
    sparsity: float
    bytes: Bytes


class Inspection(BaseModel):
    """`inspect --json`."""

    weights: list[Weight]


class Layer(BaseModel):
    """A layer of `compile --json`."""

    name: str
    structure: str
    kernel: str
    candidates: dict[str, float] = Field(default_factory=dict)
    how: str


class Compilation(BaseModel):
    """`compile --json`."""

    layers: list[Layer]
    seconds: float


class Check(BaseModel):
    """Outputs against ONNX Runtime's on labelled data; left by `demo`."""

    samples: int
    accuracy: float
    reference_accuracy: float
    reference: str
    same_predictions: int
    max_error: float
    """Largest difference of an output, over the largest output."""


class TimeMs(BaseModel):
    """Milliseconds a call."""

    median: float
    p5: float
    p95: float


class BenchEntry(BaseModel):
    """A model in a runtime."""

    model: str
    peer: str
    exact: bool
    time_ms: TimeMs | None
    error: float | None
    why: str
    over_onnxruntime: float | None
    over_best_peer: float | None


class MachineFacts(BaseModel):
    """The machine that was timed."""

    cpu: str
    cores: int
    features: list[str]
    memory_gb: float
    system: str
    load: float
    versions: dict[str, str]


class Benchmark(BaseModel):
    """`bench --json`."""

    machine: MachineFacts
    threads: int
    shapes: dict[str, dict[str, list[int]]]
    entries: list[BenchEntry]


class RankedDevice(BaseModel):
    """A device of `rank --json`."""

    name: str
    kind: str
    latency_ms: float
    low_ms: float
    high_ms: float
    how: Literal["measured", "simulated", "predicted"]
    cost_usd: float | None = None
    meets_lc: bool


class Ranking(BaseModel):
    """`rank --json`."""

    lc_ms: float
    devices: list[RankedDevice]
    best: str | None


RESULTS: dict[str, type[BaseModel]] = {
    "inspect": Inspection,
    "check": Check,
    "bench": Benchmark,
    "rank": Ranking,
    "compile": Compilation,
}
"""NAME.json in the folder is read as this and shown by the template's section of that name, in this order."""
