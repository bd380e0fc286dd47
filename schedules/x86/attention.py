"""Self-attention over tiles: softmax(scale Q K^T + mask) V of all heads, with no matrix of S x S.

A job is 16 queries of one head. Queries lie in the lanes, so that the softmax over the keys never looks
across lanes; of keys and values one number at a time is broadcast. Keys come in chunks whose scores stay in
L1; the softmax runs along (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018).

A batch's tokens start anywhere in a tile where S is no multiple of 16. Then the job copies what it reads to
buffers in which they start a tile, and stores its results lane by lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from espalier.schedules.x86.script import block, lanes, prim_func
from espalier.targets.cpu import Cpu, Isa

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

CHUNK = 128
"""Keys whose scores are held: 8 KB."""
ROWS: dict[Isa, int] = {"sse4": 2, "avx2": 4, "avx512": 16}
"""Vectors of 16 sums in registers."""
MINUS_INFINITY = 'T.Broadcast(T.float32("-inf"), 16)'
LOWEST = -3.4028234663852886e38


@dataclass(frozen=True)
class Channels:
    """Where the heads lie in a tensor of tiles: side by side from channel `first` on, of `total`."""

    total: int
    first: int = 0


@dataclass(frozen=True)
class Mask:
    """[B|1, H|1, S|1, S]: f32 that is added to the scores, or bool that says which ones to keep."""

    kind: Literal["add", "keep"]
    batch: bool
    heads: bool
    queries: bool
    """Whether the mask differs between batches, heads, queries; its dimension is 1 otherwise."""


@dataclass(frozen=True)
class AttentionWork:
    """Self-attention for any batch B and sequence S.

    Without `query`, `key` or `value` the tensor holds just the heads. causal: a query sees no later key.
    nan_to_zero: a query that sees no key gets 0 instead of NaN.
    """

    heads: int
    head_dim: int
    value_dim: int
    scale: float
    mask: Mask | None = None
    causal: bool = False
    nan_to_zero: bool = False
    query: Channels | None = None
    key: Channels | None = None
    value: Channels | None = None


def attention(work: AttentionWork, cpu: Cpu, name: str) -> PrimFunc:
    """The function.

    Parameters: query, key, value f32 [T, channels, 16], [mask], the int64 numbers batch and sequence, and
    y f32 [T, heads * value_dim, 16], with T = ceil(batch * sequence / 16).
    """
    from espalier.schedules.x86 import vmath

    text = _Text(work, ROWS[cpu.isa])
    mask = ["mask: T.handle"] if work.mask else []
    parameters = [
        *(f"{x}: T.handle" for x in "qkv"),
        *mask,
        "batch: T.int64",
        "sequence: T.int64",
        "y: T.handle",
    ]
    return prim_func(name, parameters, text.body(), {"exp": vmath.exp_nonpositive})


def _splat(value: str | float) -> str:
    return f"T.Broadcast({value if isinstance(value, str) else f'T.float32({value!r})'}, 16)"


def _local(name: str, size: int) -> str:
    # under 1 KB "global" lies on the stack, where LLVM turns it into registers; "local" never does on a CPU
    return f'{name} = T.sblock_alloc_buffer(({size},), "float32", scope="global")'


class _Text:
    def __init__(self, work: AttentionWork, rows: int) -> None:
        self.work = work
        self.rows = rows
        self.query = work.query or Channels(work.heads * work.head_dim)
        self.key = work.key or Channels(work.heads * work.head_dim)
        self.value = work.value or Channels(work.heads * work.value_dim)

    def body(self) -> list[str]:
        work = self.work
        lines = ["tiles = T.int64()"]
        for name, channels in (("Q", self.query), ("K", self.key), ("V", self.value)):
            lines.append(f'{name} = T.match_buffer({name.lower()}, (tiles, {channels.total}, 16), "float32")')
        if work.mask:
            shape = [
                "batch" if work.mask.batch else 1,
                work.heads if work.mask.heads else 1,
                "sequence" if work.mask.queries else 1,
                "sequence",
            ]
            kind = {"add": "float32", "keep": "bool"}[work.mask.kind]
            lines.append(f'Mask = T.match_buffer(mask, ({", ".join(map(str, shape))}), "{kind}")')
        lines.append(f'Y = T.match_buffer(y, (tiles, {work.heads * work.value_dim}, 16), "float32")')
        jobs = f"batch * {work.heads} * ((sequence + 15) // 16)"
        return [
            *lines,
            *block(f"for p in T.parallel({jobs})", block('with T.sblock("queries")', self._job())),
        ]

    def _job(self) -> list[str]:
        work = self.work
        widest = max(work.head_dim, work.value_dim)
        seen = "T.min(sequence, q0 + 16)" if work.causal else "sequence"
        return [
            "T.reads()",
            "T.writes()",
            _local("Queries", work.head_dim * 32 + 16),
            _local("Copy", CHUNK // 16 * (widest * 32 + 16)),
            _local("P", CHUNK * 16),
            _local("O", work.value_dim * 16),
            _local("acc", self.rows * 16),
            *(_local(name, 16) for name in ("highest", "before", "weight", "factor", "gathered")),
            f"b = p // ((sequence + 15) // 16) // T.int64({work.heads})",
            f"h = p // ((sequence + 15) // 16) % T.int64({work.heads})",
            "q0 = p % ((sequence + 15) // 16) * 16",
            "first = b * sequence",
            "shift = first % 16",
            f"seen = {seen}",
            *block(
                f"for d in T.serial(T.int64({work.head_dim}))",
                self._aligned(
                    "Queries",
                    "d * 32",
                    "Q",
                    "(first + q0) // 16",
                    f"{self.query.first} + h * {work.head_dim} + d",
                    f" * {_splat(work.scale)}",
                ),
            ),
            f"highest[{lanes()}] = {_splat(LOWEST)}",
            f"weight[{lanes()}] = {_splat(0.0)}",
            *block(
                f"for d in T.serial(T.int64({work.value_dim}))", [f"O[{lanes('d * 16')}] = {_splat(0.0)}"]
            ),
            *block(f"for c in T.serial((seen + {CHUNK - 1}) // {CHUNK})", self._chunk()),
            *self._store(),
        ]

    def _aligned(
        self, target: str, row: str, source: str, tile: str, channel: str, factor: str = ""
    ) -> list[str]:
        """Copy a channel of 16 tokens that start at lane `shift` of a tile to [row + 16, row + 32).

        Two stores of whole tiles do; they spill over no other row's 16 numbers.
        """
        return [
            f"{target}[{lanes(f'{row} + 16 - shift')}] = {source}[{tile}, {channel}, {lanes()}]{factor}",
            f"{target}[{lanes(f'{row} + 32 - shift')}] = "
            f"{source}[T.min({tile} + 1, tiles - 1), {channel}, {lanes()}]{factor}",
        ]

    def _chunk(self) -> list[str]:
        """Scores, softmax and weighted sum for the keys k0 to k0 + count - 1."""
        work = self.work
        m, w, f, before = (f"{x}[{lanes()}]" for x in ("highest", "weight", "factor", "before"))
        p = f"P[{lanes('j * 16')}]"
        return [
            f"k0 = c * {CHUNK}",
            f"count = T.min(seen - k0, T.int64({CHUNK}))",
            "tile = (first + k0) // 16",
            *block(
                "if shift == 0",
                self._scores(lambda d, j: f"K[tile + kt, {self.key.first} + h * {work.head_dim} + {d}, {j}]"),
            ),
            *block("else", self._copied("K", self.key.first, work.head_dim, self._scores)),
            f"{before} = {m}",
            *block("for j in T.serial(count)", [*self._masked(), f"{m} = T.max({m}, {p})"]),
            f"{f} = exp({before} - {m})",
            f"{w} = {w} * {f}",
            *block("for j in T.serial(count)", [f"e = exp({p} - {m})", f"{p} = e", f"{w} = {w} + e"]),
            *block(
                "if shift == 0",
                self._mix(lambda d, j: f"V[tile + kt, {self.value.first} + h * {work.value_dim} + {d}, {j}]"),
            ),
            *block("else", self._copied("V", self.value.first, work.value_dim, self._mix)),
        ]

    def _copied(self, source: str, first: int, width: int, use) -> list[str]:
        """Bring the chunk's tiles into line in a copy, then use that."""
        size = width * 32 + 16
        copy = self._aligned(
            "Copy",
            f"kt * {size} + d * 32",
            source,
            "T.min(tile + kt, tiles - 1)",
            f"{first} + h * {width} + d",
        )
        loops = block(
            "for kt in T.serial((count + 15) // 16)", block(f"for d in T.serial(T.int64({width}))", copy)
        )
        return [*loops, *use(lambda d, j: f"Copy[kt * {size} + ({d}) * 32 + 16 + {j}]")]

    def _scores(self, key) -> list[str]:
        work = self.work
        lines = []
        for j in range(0, 16, self.rows):
            acc = [f"acc[{lanes(r * 16)}]" for r in range(self.rows)]
            lines += [f"{a} = {_splat(0.0)}" for a in acc]
            query = f"Queries[{lanes('d * 32 + 16')}]"
            sums = [f"{a} = {a} + {query} * {_splat(key('d', str(j + r)))}" for r, a in enumerate(acc)]
            lines += block(f"for d in T.serial(T.int64({work.head_dim}))", sums)
            lines += [f"P[{lanes(f'kt * 256 + {(j + r) * 16}')}] = {a}" for r, a in enumerate(acc)]
        return block("for kt in T.serial((count + 15) // 16)", lines)

    def _masked(self) -> list[str]:
        """Apply the mask and the causal limit to P[j]."""
        work, mask = self.work, self.work.mask
        p = f"P[{lanes('j * 16')}]"
        lines = []
        if mask:
            place = f"{'b' if mask.batch else 0}, {'h' if mask.heads else 0}, {{}}, k0 + j"
            if mask.queries:
                query = place.format("T.min(q0 + i, sequence - 1)")
                value = (
                    f"Mask[{query}]"
                    if mask.kind == "add"
                    else f"T.Select(Mask[{query}], T.float32(1), T.float32(0))"
                )
                lines += block("for i in T.serial(T.int64(16))", [f"gathered[i] = {value}"])
                value = f"gathered[{lanes()}]"
                keep = f"{value} > {_splat(0.0)}"
            else:
                value = keep = _splat(f"Mask[{place.format(0)}]")
            if mask.kind == "add":
                lines.append(f"{p} = {p} + {value}")
            else:
                lines.append(f"{p} = T.Select({keep}, {p}, {MINUS_INFINITY})")
        if work.causal:
            lines.append(f"{p} = T.Select(T.Broadcast(k0 + j, 16) <= {lanes('q0')}, {p}, {MINUS_INFINITY})")
        return lines

    def _mix(self, value) -> list[str]:
        """O = factor O + sum over the keys of P V."""
        dim = self.work.value_dim
        lines = []
        if dim >= self.rows:
            lines += block(
                f"for g in T.serial(T.int64({dim // self.rows}))",
                self._mix_rows(value, f"g * {self.rows}", self.rows),
            )
        if dim % self.rows:
            lines += self._mix_rows(value, str(dim // self.rows * self.rows), dim % self.rows)
        return lines

    def _mix_rows(self, value, d: str, rows: int) -> list[str]:
        acc = [f"acc[{lanes(r * 16)}]" for r in range(rows)]
        out = [f"O[{lanes(f'({d} + {r}) * 16')}]" for r in range(rows)]

        def add(j: str) -> list[str]:
            p = f"P[{lanes(f'(kt * 16 + {j}) * 16')}]"
            return [f"{a} = {a} + {p} * {_splat(value(f'{d} + {r}', j))}" for r, a in enumerate(acc)]

        return [
            *(f"{a} = {o} * factor[{lanes()}]" for a, o in zip(acc, out, strict=True)),
            *block("for kt in T.serial(count // 16)", block("for j in T.serial(T.int64(16))", add("j"))),
            *block(
                "for kt in T.serial(count // 16, (count + 15) // 16)",
                block("for j in T.serial(count % 16)", add("j")),
            ),
            *(f"{o} = {a}" for a, o in zip(acc, out, strict=True)),
        ]

    def _store(self) -> list[str]:
        dim = self.work.value_dim
        out = f"O[{lanes('d * 16')}]"
        result = f"{out} * factor[{lanes()}]"
        if self.work.nan_to_zero:
            result = f"T.Select(weight[{lanes()}] > {_splat(0.0)}, {result}, {_splat(0.0)})"
        token = "(first + q0 + i)"
        scattered = [
            f"{out} = {result}",
            *block(
                "for i in T.serial(T.min(sequence - q0, T.int64(16)))",
                [f"Y[{token} // 16, h * {dim} + d, {token} % 16] = O[d * 16 + i]"],
            ),
        ]
        whole = [f"Y[(first + q0) // 16, h * {dim} + d, {lanes()}] = {result}"]
        loop = f"for d in T.serial(T.int64({dim}))"
        return [
            f"factor[{lanes()}] = {_splat(1.0)} / weight[{lanes()}]",
            *block("if shift == 0 and q0 + 16 <= sequence", block(loop, whole)),
            *block("else", block(loop, scattered)),
        ]
