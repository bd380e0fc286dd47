"""Builds the program of a model from its int8 operations: weight words, instructions, tokens.

Weights and parameters stream through rings of their memories; the tokens that `with_tokens` puts in make a
load wait only for the words it overwrites, so loads run ahead of the array as far as the rings reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from espalier.codegen.fpga.tokens import check_tokens, with_tokens
from espalier.schedules.fpga.memory import CapacityError, Memory, Outside, Tensor
from espalier.schedules.fpga.walk import INPUTS, OUTPUTS
from espalier.schedules.fpga.windows import (
    Words,
    block_columns,
    dense_words,
    slots_of,
    sparse_words,
    to_bytes,
)
from espalier.targets.fpga import isa
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.isa import Instruction
from espalier.targets.fpga.layout import param_words
from espalier.targets.fpga.semantics import Activation, NormParams, Scale

CONSTANTS = 0
"""Region of external memory beside INPUTS and OUTPUTS."""
_RING_SHARE = 16
"""A ring never holds more loads than this, so that tokens stay below their limit."""

HIDE = NormParams(a=np.array(256), b=np.array(512), gamma=np.array(128), beta=np.array(0), eps=0, shift=7)
"""Scores plus twice a mask of 0 and -128: what the mask hides falls to -128, the rest stays."""


@dataclass(frozen=True)
class KeyParams:
    """Row parameters of the keys of an attention, which the host hands over: a mask is part of the bias."""

    beat: int
    """Where they begin in region 1."""
    words: int


@dataclass(frozen=True)
class Setting:
    """Where an attention's parameters and table lie on chip."""

    params: int
    """Of the scores' rows."""
    zero: int
    """Of the context's rows."""
    hiding: int
    """Of the sum that hides keys."""
    table: int
    by_key: bool
    """Every key has its own."""


@dataclass(frozen=True)
class Program:
    """A finished program and what it needs around it."""

    geometry: Geometry
    instructions: tuple[Instruction, ...]
    constants: bytes
    """Region 0."""
    input_bytes: int
    """Region 1."""
    output_bytes: int
    """Region 2: the outputs, then what is stored to be loaded again."""
    sections: tuple[tuple[str, int, int], ...]
    """Operations in order: a name and the range of its instructions."""

    @property
    def stream(self) -> bytes:
        """The instructions as the accelerator reads them."""
        return isa.assemble(list(self.instructions))


@dataclass(frozen=True)
class _Rows:
    """The rows of a linear layer: int8 weights, which of them are kept, parameter entries, activation."""

    weight: np.ndarray
    mask: np.ndarray | None
    entries: np.ndarray
    activation: Activation
    table: np.ndarray | None
    """int8 `[256]`, or `[N, 256]` a row"""
    name: str


def _entries(bias: np.ndarray, scale: Scale, rows: int) -> np.ndarray:
    """Parameter entries of so many rows."""
    columns = {"bias": bias, "mul": scale.mul, "shift": scale.shift}
    return isa.pack_params("linear", **{name: np.broadcast_to(v, rows) for name, v in columns.items()})


class Pool:
    """Region 0 of external memory: whole beats, the same bytes once."""

    def __init__(self, geometry: Geometry) -> None:
        self._bus = geometry.bus
        self._data = bytearray()
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        """The beat where a copy of `data` begins."""
        if data not in self._known:
            self._known[data] = len(self._data) // self._bus
            self._data += data + bytes(-len(data) % self._bus)
        return self._known[data]

    def __bytes__(self) -> bytes:
        return bytes(self._data)


class _Ring:
    """Consecutive words of a memory, from the beginning again when its end is near."""

    def __init__(self, name: str, depth: int) -> None:
        self._name, self._depth, self._next = name, depth, 0

    def take(self, words: int) -> int:
        if words > self._depth:
            raise CapacityError(f"{words} words do not fit the {self._name} memory of {self._depth}")
        span = max(words, -(-self._depth // _RING_SHARE))
        if self._next + max(span, words) > self._depth:
            self._next = 0
        start = self._next
        self._next += span
        return start


@dataclass
class Builder:
    """Collects the operations of one model. Each method appends one operation.

    Programs built with one `pool` share its constants.
    """

    geometry: Geometry
    pool: Pool | None = None
    _program: list[Instruction] = field(default_factory=list)
    _sections: list[tuple[str, int, int]] = field(default_factory=list)
    _inputs: int = 0
    _outputs: int = 0

    def __post_init__(self) -> None:
        self._pool = self.pool or Pool(self.geometry)
        self._memory = Memory(self.geometry)
        self._weights = _Ring("weight", self.geometry.wgt_depth)
        self._params = _Ring("parameter", self.geometry.par_depth)
        self._table = 0

    # Memory

    def tensor(self, tokens: int, features: int) -> Tensor:
        """Room on chip. Raises CapacityError when there is none."""
        return self._memory.take(tokens, features)

    def free(self, *tensors: Tensor) -> None:
        """Give tensors' room back; what is built later may overwrite them."""
        self._memory.free(*tensors)

    def reserve(self, input_words: int, output_words: int) -> None:
        """Activation words at the beginning of regions 1 and 2 that are spoken for."""
        self._inputs = input_words * self.geometry.word_bytes
        self._outputs = output_words * self.geometry.word_bytes

    def _constant(self, data: np.ndarray) -> int:
        """The beat of region 0 where a copy of `data` begins."""
        return self._pool.add(data.tobytes())

    # Instructions

    def _emit(self, name: str, **values: int) -> None:
        self._program.append(Instruction(name, values))

    def _load(self, mem: str, sram: int, dram: int, count: int, region: int = CONSTANTS) -> None:
        self._emit(
            "LOAD", mem=isa.names("memory")[mem], region=region, sram=sram, dram=dram, count=count, rows=1
        )

    def _load_params(self, entries: np.ndarray, at: int | None = None) -> int:
        """The parameter word where they lie: `at`, where that is given."""
        words = param_words(entries, self.geometry)
        at = self._params.take(len(words)) if at is None else at
        self._load("PAR", at, self._constant(words), len(words))
        return at

    def _load_table(self, table: np.ndarray) -> int:
        self._table ^= 1
        self._load("TAB", self._table, self._constant(table.astype(np.int8)), 1)
        return self._table

    def _load_weights(self, words: Words) -> int:
        at = self._weights.take(words.count)
        data = to_bytes(words, self.geometry)
        self._load("WGT" if words.sparse else "WGT_DENSE", at, self._constant(data), words.count)
        return at

    def _section(self, name: str, first: int) -> None:
        # START is put before all of them
        self._sections.append((name, first + 1, len(self._program) + 1))

    # Operations

    def input(self, tokens: int, features: int, name: str = "input") -> Tensor:
        """A tensor read from region 1, laid out by `to_tiles`; inputs lie one after the other."""
        out = self.tensor(tokens, features)
        self.load(out, self._place(INPUTS, self._inputs, out), name)
        self._inputs += out.words * self.geometry.word_bytes
        return out

    def key_params(self, tokens: int) -> KeyParams:
        """Room in region 1, after what is there, for an entry a key, padded to whole blocks of rows."""
        g = self.geometry
        words = -(-tokens // g.pes) * (g.pes // g.params_per_word)
        found = KeyParams(self._inputs // g.bus, words)
        self._inputs += 8 * g.params_per_word * words
        return found

    def output(self, x: Tensor, name: str = "output") -> None:
        """Write a tensor to region 2, after the outputs before it."""
        self.store(x, self._place(OUTPUTS, self._outputs, x), name)
        self._outputs += x.words * self.geometry.word_bytes

    def load(self, x: Tensor, place: Outside, name: str = "load") -> None:
        """Fill a tensor from external memory."""
        self._copy("LOAD", x, place, name)

    def store(self, x: Tensor, place: Outside, name: str = "store") -> None:
        """Write a tensor to external memory."""
        self._copy("STORE", x, place, name)

    def settle(self, x: Tensor) -> None:
        """Let compute wait for the stores so far, of which `x` is the last: only compute gives loads tokens.

        It does so in a TURN of a word of `x`, whose result nobody reads.
        """
        at = self._weights.take(self.geometry.passes)
        self._emit("TURN", slots=1, tiles=1, weights=at, input=x.base, input_stride=1)

    def _place(self, region: int, start: int, x: Tensor) -> Outside:
        return Outside(region, start // self.geometry.word_bytes, x.stride)

    def _copy(self, op: str, x: Tensor, place: Outside, name: str) -> None:
        beats, first = self.geometry.beats("ACT"), len(self._program)
        whole = x.stride == place.stride
        self._emit(
            op,
            mem=isa.names("memory")["ACT"],
            region=place.region,
            sram=x.base,
            dram=place.first * beats,
            count=x.words if whole else x.stride,
            rows=1 if whole else x.tiles,
            stride=0 if whole else place.stride * beats,
        )
        self._section(name, first)

    def linear(
        self,
        x: Tensor,
        weight: np.ndarray,
        mask: np.ndarray | None,
        bias: np.ndarray,
        scale: Scale,
        activation: Activation = "NONE",
        table: np.ndarray | None = None,
        name: str = "linear",
        out: Tensor | None = None,
    ) -> Tensor:
        """`semantics.linear`; `mask` bool `[N, K]` of the kept weights, or None for dense. `out`: where to.

        Raises ValueError where the rows that the array computes at once have more than one table.
        """
        first = len(self._program)
        out = out or self.tensor(x.tokens, len(weight))
        rows = _Rows(weight, mask, _entries(bias, scale, len(weight)), activation, table, name)
        self._rows(x, rows, 0, out)
        self._section(name, first)
        return out

    def linear_output(
        self,
        x: Tensor,
        weight: np.ndarray,
        mask: np.ndarray | None,
        bias: np.ndarray,
        scale: Scale,
        name: str = "decoder",
    ) -> None:
        """`semantics.linear` whose result, too large for the chip, goes to region 2 as `output` writes it."""
        parts = self._memory.parts(x, len(weight))
        stride = slots_of(len(weight), self.geometry)
        place = Outside(OUTPUTS, self._outputs // self.geometry.word_bytes, stride)
        self.linear_stream(x, weight, mask, bias, scale, parts, place, name)
        self.free(*parts)
        self._outputs += x.tiles * stride * self.geometry.word_bytes

    def linear_stream(
        self,
        x: Tensor,
        weight: np.ndarray,
        mask: np.ndarray | None,
        bias: np.ndarray,
        scale: Scale,
        parts: Sequence[Tensor],
        place: Outside,
        name: str = "decoder",
    ) -> None:
        """`semantics.linear` of which as many rows as fit `parts` are computed and stored in turn."""
        g, first = self.geometry, len(self._program)
        count, step = len(weight), parts[0].features
        rows = _Rows(weight, mask, _entries(bias, scale, count), "NONE", None, name)
        for index, row in enumerate(range(0, count, step)):
            features = min(step, count - row)
            out = replace(parts[index % len(parts)], features=features, stride=slots_of(features, g))
            self._rows(x, rows, row, out)
            at = place.at(0, row // g.banks)
            self._emit(
                "STORE",
                region=at.region,
                sram=out.base,
                dram=at.first * g.beats("ACT"),
                count=out.stride,
                rows=out.tiles,
                stride=at.stride * g.beats("ACT"),
            )
        self._section(name, first)

    def _rows(self, x: Tensor, rows: _Rows, start: int, out: Tensor) -> None:
        """Rows `start` to `start + out.features`, a block at a time."""
        g = self.geometry
        which, loaded = 0, None
        for row in range(start, start + out.features, g.pes):
            end = min(row + g.pes, start + out.features)
            part = rows.weight[row:end]
            if rows.mask is None:
                words = dense_words(part, g)
            else:
                words = sparse_words(part, rows.mask[row:end], g, block_columns(rows.mask, row, g))
            params = self._load_params(rows.entries[row:end])
            at = self._load_weights(words)
            if rows.table is not None:
                tables = np.broadcast_to(rows.table, (len(rows.weight), 256))[row:end]
                if (tables != tables[0]).any():
                    raise ValueError(f"rows {row}..{end - 1} of {rows.name} take one table, not several")
                # last, as it waits longest: its place is free when the LINEAR two tables before is done
                if loaded is None or (tables[0] != loaded).any():
                    loaded = tables[0]
                    which = self._load_table(loaded)
            self._emit(
                "LINEAR",
                sparse=int(words.sparse),
                activation=isa.names("activation")[rows.activation],
                table=which,
                windows=words.count,
                tiles=x.tiles,
                weights=at,
                input=x.base,
                input_stride=x.stride,
                output=out.base + (row - start) // g.banks,
                output_stride=out.stride,
                params=params,
                row_end=end - row,
            )

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        scale: Scale,
        table: np.ndarray,
        name: str = "attention",
        keys: KeyParams | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Softmax of scaled products of queries and keys, times the values, a head after the other.

        `scale` (one number) brings a product to int8 scores, `table` is the exponential of SOFTMAX. A
        feature of the result has the scale of its value feature. With `keys` the host gives scale and bias
        of every key. `hidden [tokens, tokens]` is -128 where a query must not see a key, else 0.
        """
        out = self.tensor(query.tokens, query.features)
        scores = self.tensor(query.tokens, key.tokens)
        setting = self.attention_setting(key.tokens, scale, table, name, keys, hides=hidden is not None)
        self.attend(query, key, value, heads, setting, scores, out, hidden, name)
        self.free(scores)
        return out

    def attention_setting(
        self,
        tokens: int,
        scale: Scale,
        table: np.ndarray,
        name: str = "attention",
        keys: KeyParams | None = None,
        *,
        hides: bool = False,
    ) -> Setting:
        """Load what every head and query of an attention over so many `tokens` takes."""
        g, first = self.geometry, len(self._program)
        # one piece, as all of it stays until the last head is done
        block = g.pes // g.params_per_word
        hide = self._norm_entries(HIDE, tokens) if hides else np.zeros(0, np.uint64)
        count = (block if keys is None else keys.words) + block
        params = self._params.take(count + len(param_words(hide, g)))
        zero, hiding = params + count - block, params + count
        if keys is None:
            self._load_params(_entries(np.zeros(1, np.int64), scale, g.pes), params)
        else:
            self._load("PAR", params, keys.beat, keys.words, INPUTS)
        self._load_params(np.zeros(g.pes, np.uint64), zero)
        which = self._load_table(table)
        if len(hide):
            self._load_params(hide, hiding)
        self._section(f"{name}.params", first)
        return Setting(params, zero, hiding, which, keys is not None)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        setting: Setting,
        scores: Tensor,
        out: Tensor,
        hidden: Tensor | None = None,
        name: str = "attention",
    ) -> None:
        """As `attention`, of these heads and queries over all keys; `scores [queries, keys]` is room."""
        g = self.geometry
        size = query.features // heads
        tokens = key.tokens
        for head in range(heads):
            # a head need not begin at bank 0: its first slot holds features of the head before, too
            slot, skip = divmod(head * size, g.banks)
            slots = slots_of(skip + size, g)
            first = len(self._program)
            for row in range(0, tokens, g.pes):
                tile = row // g.tokens
                at = self._weights.take(slots * g.passes)
                self._emit(
                    "TURN",
                    kind=0,
                    slots=slots,
                    tiles=min(g.pes // g.tokens, key.tiles - tile),
                    weights=at,
                    input=key.base + tile * key.stride + slot,
                    input_stride=key.stride,
                    first=skip,
                    end=skip + size,
                )
                self._emit(
                    "LINEAR",
                    windows=slots * g.passes,
                    tiles=query.tiles,
                    weights=at,
                    input=query.base + slot,
                    input_stride=query.stride,
                    output=scores.base + row // g.banks,
                    output_stride=scores.stride,
                    params=setting.params + setting.by_key * (row // g.params_per_word),
                    row_end=min(g.pes, tokens - row),
                )
            self._section(f"{name}.scores", first)
            first = len(self._program)
            if hidden is not None:
                self._norm(scores, hidden, scores, HIDE, setting.hiding, stats=False)
                self._section(f"{name}.hide", first)
                first = len(self._program)
            self._emit(
                "SOFTMAX",
                table=setting.table,
                tiles=scores.tiles,
                count=tokens,
                input=scores.base,
                input_stride=scores.stride,
                output=scores.base,
                output_stride=scores.stride,
            )
            self._section(f"{name}.softmax", first)
            first = len(self._program)
            for row in range(0, skip + size, g.pes):
                at = self._weights.take(value.tiles * g.tokens // g.lanes)
                here = row // g.banks
                self._emit(
                    "TURN",
                    kind=1,
                    slots=min(g.pes // g.banks, slots - here),
                    tiles=value.tiles,
                    weights=at,
                    input=value.base + slot + here,
                    input_stride=value.stride,
                    end=tokens,
                )
                self._emit(
                    "LINEAR",
                    token_scale=1,
                    windows=scores.stride * g.passes,
                    tiles=scores.tiles,
                    weights=at,
                    input=scores.base,
                    input_stride=scores.stride,
                    output=out.base + slot + here,
                    output_stride=out.stride,
                    params=setting.zero,
                    row_first=skip if row == 0 else 0,
                    row_end=min(g.pes, skip + size - row),
                )
            self._section(f"{name}.context", first)

    def norm(
        self,
        x: Tensor,
        residual: Tensor,
        params: NormParams,
        *,
        stats: bool,
        name: str = "norm",
        out: Tensor | None = None,
    ) -> Tensor:
        """`semantics.norm`. `out`: where to."""
        first = len(self._program)
        out = out or self.tensor(x.tokens, x.features)
        at = self._load_params(self._norm_entries(params, x.features))
        self._norm(x, residual, out, params, at, stats=stats)
        self._section(name, first)
        return out

    def _norm_entries(self, params: NormParams, features: int) -> np.ndarray:
        """Entries of `params`; the unused banks of the last slot, which are read as well, have some too."""
        g = self.geometry
        columns = {
            key: np.broadcast_to(getattr(params, key), features) for key in ("a", "b", "gamma", "beta")
        }
        head = np.zeros(g.params_per_word, np.uint64)
        head[0] = params.eps
        tail = np.zeros(-features % g.banks, np.uint64)
        return np.concatenate([head, isa.pack_params("norm", **columns), tail])

    def _norm(
        self, x: Tensor, residual: Tensor, out: Tensor, params: NormParams, at: int, *, stats: bool
    ) -> None:
        self._emit(
            "NORM",
            stats=int(stats),
            shift=params.shift,
            tiles=x.tiles,
            count=x.features,
            input=x.base,
            input_stride=x.stride,
            residual=residual.base,
            residual_stride=residual.stride,
            output=out.base,
            output_stride=out.stride,
            params=at,
        )

    def finish(self) -> Program:
        """The program, its tokens proved."""
        program = with_tokens(self._program, self.geometry)
        check_tokens(program, self.geometry)
        return Program(
            self.geometry,
            tuple(program),
            bytes(self._pool),
            self._inputs,
            self._outputs,
            tuple(self._sections),
        )
