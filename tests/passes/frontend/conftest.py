"""Converted graphs, run in numpy and compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from espalier.passes.frontend import size as sz
from espalier.passes.frontend.convert.graph import convert
from espalier.passes.frontend.plain import OPS
from espalier.passes.frontend.values import Constant, Plain, Tensor

Feeds = Mapping[str, np.ndarray]


def solve(plain: Plain, feeds: Feeds) -> dict[str, int]:
    """The extents of the named dimensions that the arrays have."""
    known: dict[str, int] = {}
    for tensor in plain.inputs:
        for dim, extent in zip(tensor.shape, feeds[tensor.name].shape, strict=True):
            name = sz.name_of(dim)
            if name is not None:
                assert known.setdefault(name, extent) == extent
    return known


def evaluate(plain: Plain, feeds: Feeds) -> dict[str, np.ndarray]:
    """The outputs of a converted graph; every computed shape is checked against the derived one."""
    known = solve(plain, feeds)

    def number(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(number(item) for item in value)
        if not isinstance(value, sz.Size):
            return value
        return sz.replace(
            value, lambda atom: known[atom.name] if isinstance(atom, sz.Symbol) else sz.of(atom)
        )

    arrays: dict[Tensor, np.ndarray] = {tensor: feeds[tensor.name] for tensor in plain.inputs}

    def get(value: Tensor | Constant) -> np.ndarray:
        return value.array if isinstance(value, Constant) else arrays[value]

    for tensor in plain.ops:
        op = tensor.op
        assert op is not None
        attrs = {key: number(value) for key, value in op.attrs.items()}
        with np.errstate(all="ignore"):
            result = np.asarray(OPS[op.name].evaluate(*map(get, op.inputs), **attrs))
        assert result.shape == number(tensor.shape), (op.node, op.name)
        assert str(result.dtype) == tensor.dtype, (op.node, op.name)
        arrays[tensor] = result
    return {name: get(value) for name, value in plain.outputs}


def reference(model: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, unoptimised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def agree() -> Callable[..., Plain]:
    """Checks that a model converts and computes what ONNX Runtime does, for each set of inputs."""

    def check(model: onnx.ModelProto, *many: Feeds, rtol: float = 1e-5, atol: float = 1e-5) -> Plain:
        plain = convert(model)
        for feeds in many:
            expected = reference(model, feeds)
            got = evaluate(plain, feeds)
            assert list(got) == list(expected)
            for name, array in expected.items():
                assert got[name].dtype == array.dtype
                np.testing.assert_allclose(got[name], array, rtol=rtol, atol=atol, err_msg=name)
        return plain

    return check


@pytest.fixture
def make() -> Callable[..., onnx.ModelProto]:
    """Builds a model: nodes, inputs as {name: (dtype, shape)}, initializers, outputs as {name: dtype}."""

    def build(
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, tuple[str, Sequence[int | str]]],
        weights: Mapping[str, np.ndarray] | None = None,
        outputs: Mapping[str, str] | None = None,
        opset: int = 18,
    ) -> onnx.ModelProto:
        def code(dtype: str) -> int:
            return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

        graph = helper.make_graph(
            list(nodes),
            "graph",
            [helper.make_tensor_value_info(n, code(t), list(s)) for n, (t, s) in inputs.items()],
            [
                helper.make_tensor_value_info(n, code(t), None)
                for n, t in (outputs or {"y": "float32"}).items()
            ],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
        )
        domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=domains)
        model.ir_version = 10
        return model

    return build


__all__ = ["TensorProto"]
