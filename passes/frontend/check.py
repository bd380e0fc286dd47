"""What an ONNX model must be before it is converted.

The ONNX checker finds much, but accepts foreign domains, any opset, NaN, thousands of inputs and absurd
extents; those are refused here first, cheaply, before anything is inferred or folded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
import onnx.inliner
from onnx import TensorProto

from espalier.errors import ModelError, unknown
from espalier.passes.frontend.convert.registry import MICROSOFT, table
from espalier.passes.frontend.tensors import BITS, DAMAGED, check_tensor, dense, shown, tensors

MAX_NODES = 20_000
MAX_INPUTS = 256
MAX_DEPTH = 4
MAX_EXTENT = 1 << 31
SMALL_BYTES = 1 << 12  # initializers that shape inference may read
OLDEST_OPSET = 13
AGAIN = "export the model again"
STANDARD = ("", "ai.onnx")


def check_model(model: onnx.ModelProto) -> None:
    """Raises ModelError unless every part of the model is sound and supported.

    Changes the model where one thing has two spellings: sparse tensors become dense, functions are inlined,
    ONNX Runtime's operators in the standard domain move to theirs, and inferred shapes, maybe stale, go.
    """
    _texts(model)
    _versions(model)
    functions = _functions(model)
    _respell(model)
    _nodes(model, functions)
    for tensor in tensors(model):
        check_tensor(tensor)
    _interface(model.graph)
    _names(model.graph, set())
    _onnx_checker(model)
    if model.functions:
        model.CopyFrom(onnx.inliner.inline_local_functions(model))
        _names(model.graph, set())


def _texts(model: onnx.ModelProto) -> None:
    """Refuses names that are no text: protobuf hands them over as bytes."""
    texts: list[str | bytes] = [item.domain for item in model.opset_import]
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    for function in model.functions:
        texts += [function.name, function.domain, *function.input, *function.output, *function.attribute]
        texts += [item.domain for item in function.opset_import]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            nodes.extend(graph.node)
            texts += [graph.name, *(tensor.name for tensor in graph.initializer)]
            texts += [sparse.values.name for sparse in graph.sparse_initializer]
            for value in (*graph.input, *graph.output):
                texts += [value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim)]
            continue
        node = nodes.pop()
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output]
        for attr in node.attribute:
            texts += [attr.name, attr.ref_attr_name]
            graphs += [*([attr.g] if attr.HasField("g") else []), *attr.graphs]
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"the name {text[:40]!r} is no text", hint=DAMAGED)


def _versions(model: onnx.ModelProto) -> None:
    if not 3 <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"IR version {model.ir_version}, expected 3 to {onnx.IR_VERSION}",
            hint="export with a current exporter",
        )
    seen: set[str] = set()
    for item in model.opset_import:
        domain = "" if item.domain in STANDARD else item.domain
        if domain in seen:
            raise ModelError(f"domain {shown(item.domain)} has two opset versions", hint=DAMAGED)
        seen.add(domain)
        newest = onnx.defs.onnx_opset_version()
        if domain == "" and not OLDEST_OPSET <= item.version <= newest:
            raise ModelError(
                f"opset {item.version}, expected {OLDEST_OPSET} to {newest}",
                hint="export with a current opset, say 17",
            )
    if "" not in seen:
        raise ModelError("the model does not say the version of its opset", hint=DAMAGED)


def _functions(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """The model's own functions; raises where they call each other in a circle or grow too large."""
    table_ = {(f.domain, f.name): f for f in model.functions}
    size: dict[tuple[str, str], int] = {}

    def count(key: tuple[str, str], open_: tuple[tuple[str, str], ...]) -> int:
        if key in open_ or len(open_) > 32:
            raise ModelError(f"function {shown(key[1])} calls itself or is nested too deep", hint=AGAIN)
        if key not in size:
            calls = [(n.domain, n.op_type) for n in walk(list(table_[key].node))]
            size[key] = sum(count(c, (*open_, key)) if c in table_ else 1 for c in calls)
            size[key] = min(size[key], MAX_NODES + 1)
        return size[key]

    total = 0
    for node in walk(list(model.graph.node)):
        key = (node.domain, node.op_type)
        total += count(key, ()) if key in table_ else 1
        if total > MAX_NODES:
            raise ModelError(
                f"the graph has more than {MAX_NODES} nodes",
                hint="export a Transformer encoder or decoder alone",
            )
    return set(table_)


def walk(nodes: list[onnx.NodeProto], depth: int = 0) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their subgraphs. Raises ModelError where subgraphs nest too deep."""
    for node in nodes:
        yield node
        for attr in node.attribute:
            inner = [*([attr.g] if attr.HasField("g") else []), *attr.graphs]
            if inner and depth >= MAX_DEPTH:
                raise ModelError(f"node {label(node)} nests graphs more than {MAX_DEPTH} deep", hint=AGAIN)
            for graph in inner:
                yield from walk(list(graph.node), depth + 1)


def label(node: onnx.NodeProto) -> str:
    """A node as a message names it."""
    return shown(node.name or (node.output[0] if node.output else "")) + f" ({node.op_type[:60]})"


def _respell(model: onnx.ModelProto) -> None:
    graphs = [model.graph]
    known = table()
    functions = {(f.domain, f.name) for f in model.functions}
    moved = False
    while graphs:
        graph = graphs.pop()
        for sparse in graph.sparse_initializer:
            graph.initializer.append(dense(sparse))
        del graph.sparse_initializer[:]
        del graph.value_info[:]
        for node in graph.node:
            key = ("", node.op_type)
            if (
                node.domain in STANDARD
                and key not in known
                and (MICROSOFT, node.op_type) in known
                and key not in functions
            ):
                node.domain, moved = MICROSOFT, True
            for attr in node.attribute:
                if attr.HasField("g"):
                    graphs.append(attr.g)
                if node.op_type == "Constant" and attr.HasField("sparse_tensor"):
                    attr.CopyFrom(onnx.helper.make_attribute("value", dense(attr.sparse_tensor)))
    if moved and all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


def _nodes(model: onnx.ModelProto, functions: set[tuple[str, str]]) -> None:
    known = table()
    versions = {"" if item.domain in STANDARD else item.domain: item.version for item in model.opset_import}
    bodies = [node for function in model.functions for node in function.node]
    for node in walk([*model.graph.node, *bodies]):
        domain = "" if node.domain in STANDARD else node.domain
        if (node.domain, node.op_type) in functions or (domain == "" and node.op_type == "If"):
            continue
        where = f"node {label(node)}"
        converter = known.get((domain, node.op_type))
        if converter is None:
            _refuse(node, domain, known)
            continue
        if domain not in versions:
            raise ModelError(f"{where}: the model imports no opset of domain {shown(domain)}", hint=DAMAGED)
        if domain == "" and versions[""] < converter.since:
            raise ModelError(
                f"{where} needs opset {converter.since}, the model says {versions['']}", hint=DAMAGED
            )
        most = min(converter.inputs[1], MAX_INPUTS)
        if len(node.input) > most:
            raise ModelError(
                f"{where} has {len(node.input)} inputs, expected at most {most}", hint="split the node"
            )
        for attr in node.attribute:
            if attr.type in (onnx.AttributeProto.STRINGS, onnx.AttributeProto.TYPE_PROTO) or (
                node.op_type == "Constant" and attr.type == onnx.AttributeProto.STRING
            ):
                raise ModelError(
                    f"{where}: attribute {shown(attr.name)} holds text", hint="only numbers are supported"
                )


def _refuse(node: onnx.NodeProto, domain: str, known: Collection[tuple[str, str]]) -> None:
    """Raises for an operator that has no converter."""
    name = f"{domain}:{node.op_type}" if domain else node.op_type
    if domain == "" and node.op_type in ("Loop", "Scan", "SequenceMap"):
        hint = "export the model unrolled, for a fixed number of steps"
    elif domain not in ("", MICROSOFT):
        hint = "custom operators have no known meaning: export with standard operators"
    else:
        hint = unknown("an operator", node.op_type, [op for space, op in known if space == domain])
        if not hint.startswith("did"):
            hint = "export the model without this operator"
    raise ModelError(f"node {label(node)}: operator {name[:80]} is not supported", hint=hint)


def _interface(graph: onnx.GraphProto) -> None:
    held = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in held]
    if not inputs:
        raise ModelError("the graph has no inputs", hint=AGAIN)
    if not graph.output:
        raise ModelError("the graph has no outputs", hint=AGAIN)
    for kind, values in (("input", inputs), ("output", list(graph.output))):
        if len(values) > MAX_INPUTS:
            raise ModelError(
                f"the graph has {len(values)} {kind}s, expected at most {MAX_INPUTS}", hint=AGAIN
            )
        for value in values:
            where = f"{kind} {shown(value.name)}"
            if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type not in BITS:
                if kind == "output" and not value.type.WhichOneof("value"):
                    continue
                raise ModelError(
                    f"{where} is no tensor of numbers", hint="text, sequences and maps are not supported"
                )
    for value in inputs:
        _shape(value)


def _shape(value: onnx.ValueInfoProto) -> None:
    where, kind = f"input {shown(value.name)}", value.type.tensor_type
    if not kind.HasField("shape"):
        raise ModelError(
            f"{where} has no shape: its rank must be known", hint="export with the input's shape"
        )
    if BITS[kind.elem_type] == 4 or kind.elem_type in (TensorProto.BFLOAT16,):
        raise ModelError(
            f"{where} has an element type that no caller can give", hint="use float32 or float16"
        )
    total = 1
    for dim in kind.shape.dim:
        if dim.HasField("dim_value"):
            if dim.dim_value < 1:
                raise ModelError(
                    f"{where} has an extent of {dim.dim_value}, expected at least 1",
                    hint="name the dimension to make it dynamic",
                )
            total *= dim.dim_value
    if total > MAX_EXTENT:
        raise ModelError(f"{where} has more than {MAX_EXTENT} elements", hint=AGAIN)


def _names(graph: onnx.GraphProto, outer: set[str]) -> None:
    """Every value is defined once and before it is used (so no cycles)."""
    defined: set[str] = set()
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in defined:
            raise ModelError(f"two initializers are called {shown(tensor.name)}", hint=DAMAGED)
        defined.add(tensor.name)
    seen: set[str] = set()
    for value in graph.input:
        if not value.name or value.name in seen:
            raise ModelError(f"two inputs are called {shown(value.name)}", hint=DAMAGED)
        seen.add(value.name)
    defined |= seen
    for node in graph.node:
        for name in node.input:
            if name and name not in defined and name not in outer:
                raise ModelError(
                    f"node {label(node)} reads {shown(name)}, which nothing before it gives",
                    hint="the file is damaged, or its nodes are out of order or in a circle: export it again",
                )
        for attr in node.attribute:
            if attr.HasField("g"):
                _names(attr.g, outer | defined)
        for name in node.output:
            if name and name in defined:
                raise ModelError(f"node {label(node)} defines {shown(name)} a second time", hint=DAMAGED)
            if name:
                defined.add(name)
    for value in graph.output:
        if value.name not in defined and value.name not in outer:
            raise ModelError(f"output {shown(value.name)} is given by no node", hint=DAMAGED)


def _onnx_checker(model: onnx.ModelProto) -> None:
    """The ONNX checker after strict type and shape inference, on the model without its large weights.

    The shapes that outputs claim may be stale and are inferred anew.
    """
    try:
        known = onnx.shape_inference.infer_shapes(_light(model), check_type=True, strict_mode=True)
        outputs = [value for value in known.graph.output if value.type.tensor_type.HasField("shape")]
        del known.graph.output[:]
        known.graph.output.extend(outputs)
        onnx.checker.check_model(known)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
        RuntimeError,
    ) as error:
        text = " ".join(str(error).split())
        raise ModelError(f"the ONNX checker refuses the model: {text[:400]}", hint=AGAIN) from None


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with large initializers as inputs (only their type matters) and no shapes of outputs."""
    copy = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    graph = copy.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in weights)
    for tensor in weights.values():
        if tensor.ByteSize() <= SMALL_BYTES:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return copy
