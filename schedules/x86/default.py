"""Schedules for what has no kernel: elementwise chains, reductions, gathers, transposes, batched products.

Cheap producers are computed where they are read. A product of matrices is padded to whole register tiles; a
chain of reductions along rows runs row by row; all else runs block by block. In each case the outer loops are
parallel and the innermost one runs along memory, for LLVM to vectorise.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tvm
    from tvm.tirx import PrimFunc

LANES = 16
ROWS = 4
"""Rows of the register tile of a product."""
PARALLEL = 1 << 15
"""Loop turns from which on several threads are worth their start."""
INSIDE = 32
"""Turns that should remain inside a parallel loop: taking its index apart costs divisions."""
SYMBOLIC = 128
"""What a dimension known only at run time counts for."""
COSTLY = re.compile(r"\b(Let|exp|log|pow|sqrt|rsqrt|erf|tanh|sigmoid|sin|cos)\(")

log = logging.getLogger(__name__)


def schedule_leftovers(mod: tvm.IRModule) -> tvm.IRModule:
    """Schedule each function that is not marked `tirx.is_scheduled`; one that no rule fits stays as it is."""
    from tvm.tirx import PrimFunc

    done = mod.clone()
    for var, func in mod.functions_items():
        if isinstance(func, PrimFunc) and not (func.attrs and func.attrs.get("tirx.is_scheduled")):
            done.update_func(var, _scheduled(var.name_hint, func).with_attr("tirx.is_scheduled", True))
    return done


def _scheduled(name: str, func: PrimFunc) -> PrimFunc:
    from tvm.s_tir import Schedule

    for rule in RULES:
        try:
            sch = Schedule(func)
            if rule(sch):
                return sch.mod["main"]
        except (RuntimeError, ValueError, TypeError) as error:  # TVM's errors, ScheduleError among them
            log.debug("%s: %s does not fit: %s", name, rule.__name__, str(error).strip().rpartition("\n")[2])
    log.debug("%s: no schedule", name)
    return func


def _rows(sch: Any) -> bool:
    """Softmax, norms: every block runs inside the parallel loop over the rows of the last one."""
    _inline(sch)
    blocks = _blocks(sch)
    leading = min(_leading(sch, block) for block in blocks)
    if len(blocks) < 2 or not leading or "R" in _kinds(sch, blocks[-1]):
        return False
    if any(_is_product(sch, block) for block in blocks):
        return False
    if not any(_sums_along_memory(sch, block) for block in blocks):
        return False
    parts = [part for block in blocks[:-1] if (part := _split_sum(sch, block)) is not None]
    blocks = _blocks(sch)
    row = sch.fuse(*sch.get_loops(blocks[-1])[:leading])
    if _turns(sch, blocks[-1]) >= PARALLEL:
        sch.parallel(row)
    for block in reversed(blocks[:-1]):
        sch.compute_at(block, row, preserve_unit_loops=True)
    for part in parts:
        _vectorize_sum(sch, part, 1)
    return True


def _block_by_block(sch: Any) -> bool:
    _inline(sch)
    for block in _blocks(sch):
        if _is_product(sch, block):
            _product(sch, block, LANES)
        elif "R" in _kinds(sch, block):
            _reduction(sch, block)
        else:
            _parallel(sch, block, sch.get_loops(block)[:-1])
    return True


def _only_parallel(sch: Any) -> bool:
    for block in _blocks(sch):
        loops = sch.get_loops(block)
        if loops and _leading(sch, block):
            _parallel(sch, block, loops[:1])
    return True


RULES: tuple[Callable[[Any], bool], ...] = (_rows, _block_by_block, _only_parallel)
"""Tried in order; a rule that does not fit returns False or fails."""


def _blocks(sch: Any) -> list[Any]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _kinds(sch: Any, block: Any) -> str:
    """A letter for each axis: S spatial, R reduction, ? another."""
    return "".join({0: "S", 2: "R"}.get(int(axis.iter_type), "?") for axis in sch.get(block).iter_vars)


def _leading(sch: Any, block: Any) -> int:
    kinds = _kinds(sch, block)
    return len(kinds) - len(kinds.lstrip("S"))


def _extents(sch: Any, block: Any) -> list[int]:
    from tvm.tirx import IntImm

    extents = (axis.dom.extent for axis in sch.get(block).iter_vars)
    return [int(extent) if isinstance(extent, IntImm) else SYMBOLIC for extent in extents]


def _turns(sch: Any, block: Any) -> int:
    return math.prod(_extents(sch, block))


def _inline(sch: Any) -> None:
    """Compute elementwise producers where they are read, unless costly work would be repeated."""
    from tvm.s_tir import ScheduleError

    for block in _blocks(sch):
        consumers = list(sch.get_consumers(block))
        if "R" in _kinds(sch, block) or not consumers:
            continue
        once = len(consumers) == 1 and _turns(sch, consumers[0]) <= _turns(sch, block)
        costly = bool(COSTLY.search(str(sch.get(block).body)))
        if not once and (costly or any(_is_product(sch, consumer) for consumer in consumers)):
            continue
        try:
            sch.compute_inline(block)
        except ScheduleError:
            continue


def _parallel(sch: Any, block: Any, loops: list[Any]) -> None:
    """Make one parallel loop of `loops`, the outermost ones; the last stay inside if little else does."""
    if _turns(sch, block) < PARALLEL:
        return
    extents = _extents(sch, block)
    while len(loops) > 1 and math.prod(extents[len(loops) :]) < INSIDE:
        loops = loops[:-1]
    if loops:
        sch.parallel(sch.fuse(*loops))


def _last_index(sch: Any, block: Any) -> Any:
    """Which axis runs along the memory of what a block reads first."""
    block = sch.get(block)
    reads = [read for read in block.reads if not read.source.same_as(block.writes[0].source)]
    return reads[0].region[-1].min if reads and len(reads[0].region) else None


def _sums_along_memory(sch: Any, block: Any) -> bool:
    axes = sch.get(block).iter_vars
    last = _last_index(sch, block)
    return _kinds(sch, block)[-1:] == "R" and last is not None and last.same_as(axes[-1].var)


def _split_sum(sch: Any, block: Any) -> Any:
    """A reduction along memory as 16 side by side, then one over those; the block of the 16."""
    if (
        not _sums_along_memory(sch, block)
        or _kinds(sch, block).count("R") != 1
        or _extents(sch, block)[-1] % LANES
    ):
        return None
    *_, loop = sch.get_loops(block)
    if not hasattr(sch.get(loop).extent, "value"):
        return None
    _, lanes = sch.split(loop, factors=[None, LANES])
    return sch.rfactor(lanes, _leading(sch, block))


def _vectorize_sum(sch: Any, part: Any, depth: int) -> None:
    """Bring the 16 lanes of a split sum inside; `depth` loops lie around it."""
    lanes, *_, turns = sch.get_loops(part)[depth:]
    sch.reorder(turns, lanes)
    sch.vectorize(lanes)
    sch.decompose_reduction(part, turns)


def _reduction(sch: Any, block: Any) -> None:
    kinds, loops = _kinds(sch, block), sch.get_loops(block)
    spatial = _leading(sch, block)
    if "S" in kinds[spatial:] or len(loops) != len(kinds):
        return
    last, axes = _last_index(sch, block), sch.get(block).iter_vars
    if spatial and last is not None and last.same_as(axes[spatial - 1].var):
        outer, inner, sums = loops[: spatial - 1], loops[spatial - 1], loops[spatial:]
        sch.reorder(*sums, inner)
        _parallel(sch, block, outer)
        sch.decompose_reduction(block, sums[0])
        return
    part = _split_sum(sch, block)
    if part is not None and spatial:
        row = sch.get_loops(block)[spatial - 1]
        sch.compute_at(part, row, preserve_unit_loops=True)
        _vectorize_sum(sch, part, spatial)
    _parallel(sch, block, sch.get_loops(block)[:spatial])


def _is_product(sch: Any, block: Any) -> bool:
    """Whether a block is `C[.., i, j] += A[.., i, k] * B[.., k, j]`."""
    from tvm.ir import TensorLoad
    from tvm.tirx import Add, BufferStore, Mul

    kinds, body = _kinds(sch, block), sch.get(block).body
    if not re.fullmatch("S*SSR", kinds) or not isinstance(body, BufferStore):
        return False
    value = body.value
    if not isinstance(value, Add) or not isinstance(value.b, Mul):
        return False
    factors = (value.b.a, value.b.b)
    if not all(isinstance(factor, TensorLoad) for factor in factors):
        return False
    i, j, k = (axis.var for axis in sch.get(block).iter_vars[-3:])
    ends = [list(factor.indices)[-2:] for factor in factors]
    return all(
        len(end) == 2 and end[0].same_as(row) and end[1].same_as(column)
        for end, (row, column) in zip(ends, ((i, k), (k, j)), strict=True)
    )


def _product(sch: Any, block: Any, columns: int) -> None:
    """Pad to tiles of 4 rows by `columns`, whose sums stay in registers."""
    axes = _kinds(sch, block)
    sch.pad_einsum(block, [*(1 for _ in axes[:-3]), ROWS, columns, 1])
    *batch, i, j, k = sch.get_loops(block)
    result = sch.cache_write(block, 0, "global")
    outer_i, inner_i = sch.split(i, factors=[None, ROWS])
    outer_j, inner_j = sch.split(j, factors=[None, columns])
    sch.reorder(*batch, outer_i, outer_j, k, inner_i, inner_j)
    sch.reverse_compute_at(result, outer_j)
    _parallel(sch, block, [*batch, outer_i])
    # constant places in a small buffer on the stack ("global") are what LLVM turns into registers
    for part in (block, result):
        *_, row, column = sch.get_loops(part)
        vectors, lane = sch.split(column, factors=[None, LANES])
        sch.unroll(row)
        sch.unroll(vectors)
        sch.vectorize(lane)
    sch.decompose_reduction(block, k)
