"""Symbolic integers: polynomials over named dimensions, positions and a few integer functions.

A value is a Python int whenever it is constant, else a `Size` in canonical form, so `==` decides equality of
all expressions that a polynomial can say. Named dimensions are at least 1, positions (`Iota`) at least 0; the
undecidable rest stays symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias


@dataclass(frozen=True, order=False)
class Symbol:
    """A named dimension, at least 1."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Iota:
    """The position along an axis of a tensor; `axis` counts from the right, -1 is the last."""

    axis: int
    extent: Dim

    def __str__(self) -> str:
        return f"i{-self.axis}"


@dataclass(frozen=True)
class Apply:
    """An integer function that did not simplify.

    `name` is floordiv, mod, min, max, nonneg (1 where its argument is >= 0, else 0) or iszero.
    """

    name: str
    args: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})"


Atom: TypeAlias = Symbol | Iota | Apply
Monomial: TypeAlias = tuple[tuple[Atom, int], ...]
MAX_TERMS = 64
MAX_POWER = 16
MAX_DEPTH = 8
MAX_FACTOR = 1 << 63
TRUTHS = ("nonneg", "iszero")


@cache
def _key(atom: Atom) -> str:
    kind = {Symbol: "a", Apply: "b", Iota: "c"}[type(atom)]
    return f"{kind}{atom}" if not isinstance(atom, Iota) else f"c{atom}<{atom.extent}"


@dataclass(frozen=True)
class Size:
    """A non-constant polynomial: sorted pairs of monomial and coefficient."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        total = dict(self.terms)
        for monomial, factor in terms(other):
            total[monomial] = total.get(monomial, 0) + factor
        return _make(total)

    def __mul__(self, other: Dim) -> Dim:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in terms(other):
                monomial = _times(left, right)
                total[monomial] = total.get(monomial, 0) + a * b
        return _make(total)

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __str__(self) -> str:
        text = ""
        for monomial, factor in self.terms:
            parts = [str(atom) for atom, power in monomial for _ in range(power)]
            if abs(factor) != 1 or not parts:
                parts.insert(0, str(abs(factor)))
            sign = "-" if factor < 0 else "+" if text else ""
            text += f" {sign} " if text else sign
            text += "*".join(parts)
        return text


Dim: TypeAlias = int | Size


def symbol(name: str) -> Size:
    """The dimension of that name."""
    return of(Symbol(name))


def of(atom: Atom) -> Size:
    """An atom as a polynomial."""
    return Size(((((atom, 1),), 1),))


def iota(axis: int, extent: Dim) -> Dim:
    """The position along `axis` (negative, from the right)."""
    return 0 if extent == 1 else of(Iota(axis, extent))


def terms(value: Dim) -> Iterable[tuple[Monomial, int]]:
    """The monomials of a value with their coefficients."""
    if isinstance(value, Size):
        return value.terms
    return (((), int(value)),)


def atoms(value: Dim) -> set[Atom]:
    """The atoms of a value, those inside functions and extents not counted."""
    return {atom for monomial, _ in terms(value) for atom, _ in monomial}


def symbols(value: Dim) -> set[str]:
    """The names of all dimensions a value depends on."""
    found: set[str] = set()
    for atom in atoms(value):
        if isinstance(atom, Symbol):
            found.add(atom.name)
        elif isinstance(atom, Iota):
            found |= symbols(atom.extent)
        else:
            found = found.union(*map(symbols, atom.args))
    return found


def name_of(value: Dim) -> str | None:
    """The dimension's name, when a value is one bare dimension."""
    if isinstance(value, Size) and len(value.terms) == 1:
        monomial, factor = value.terms[0]
        if factor == 1 and len(monomial) == 1 and monomial[0][1] == 1 and isinstance(monomial[0][0], Symbol):
            return monomial[0][0].name
    return None


def replace(value: Dim, change: Callable[[Atom], Dim]) -> Dim:
    """The value with every dimension and position (also inside functions) replaced by `change(atom)`."""
    if not isinstance(value, Size):
        return value
    total: Dim = 0
    for monomial, factor in value.terms:
        product: Dim = factor
        for atom, power in monomial:
            if isinstance(atom, Apply):
                new = FUNCTIONS[atom.name](*(replace(arg, change) for arg in atom.args))
            else:
                new = change(atom)
            for _ in range(power):
                product = product * new
        total = total + product
    return total


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions, 1 for none."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def divide_exact(a: Dim, b: Dim) -> Dim | None:
    """q with q * b == a as polynomials, else None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if b == 0:
        return None
    lead, factor = _leading(b)
    quotient: Dim = 0
    rest = a
    for _ in range(64):
        if rest == 0:
            return quotient
        monomial, coefficient = _leading(rest)
        left = _over(monomial, lead)
        if left is None or coefficient % factor:
            return None
        step = _make({left: coefficient // factor})
        quotient = quotient + step
        rest = rest - step * b
    return None


def floordiv(a: Dim, b: Dim) -> Dim:
    """floor(a / b), b not 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    exact = divide_exact(a, b)
    if exact is not None:
        return exact
    whole: Dim = 0
    rest: Dim = 0
    for monomial, factor in terms(a):
        term = _make({monomial: factor})
        part = divide_exact(term, b)
        if part is None and isinstance(b, int) and factor >= b > 0:
            part = _make({monomial: factor // b})
            term = _make({monomial: factor % b})
            rest = rest + term
        elif part is None:
            rest = rest + term
            continue
        whole = whole + part
    if at_least(rest, 0) and at_least(b - rest, 1):
        return whole
    return whole + _applied("floordiv", rest, b)


def mod(a: Dim, b: Dim) -> Dim:
    """a - floor(a / b) * b, b not 0."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    quotient = floordiv(a, b)
    if not any(isinstance(atom, Apply) and atom.name == "floordiv" for atom in atoms(quotient)):
        return a - quotient * b
    return _applied("mod", a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    """The lesser of two."""
    if at_least(b - a, 0):
        return a
    if at_least(a - b, 0):
        return b
    return _applied("min", a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The greater of two."""
    if at_least(a - b, 0):
        return a
    if at_least(b - a, 0):
        return b
    return _applied("max", a, b)


def less_equal(a: Dim, b: Dim) -> Dim:
    """1 where a <= b, 0 where not, symbolic where undecided."""
    gap = b - a
    if at_least(gap, 0):
        return 1
    if at_least(-gap, 1):
        return 0
    return _applied("nonneg", gap)


def equal(a: Dim, b: Dim) -> Dim:
    """1 where a == b, 0 where not, symbolic where undecided."""
    gap = a - b
    if gap == 0:
        return 1
    if at_least(gap, 1) or at_least(-gap, 1):
        return 0
    return _applied("iszero", gap)


def _applied(name: str, *args: Dim) -> Size:
    atom = Apply(name, args)
    if _depth(atom) > MAX_DEPTH:
        raise FormulaError("a size nests functions deeper than any that a model can have")
    return of(atom)


@cache
def _depth(atom: Apply) -> int:
    inner = [a for arg in atom.args for a in atoms(arg)]
    return 1 + max((_depth(a) for a in inner if isinstance(a, Apply)), default=0)


FUNCTIONS: dict[str, Callable[..., Dim]] = {
    "floordiv": floordiv,
    "mod": mod,
    "min": minimum,
    "max": maximum,
    "nonneg": lambda gap: less_equal(0, gap),
    "iszero": lambda gap: equal(gap, 0),
}


def at_least(value: Dim, bound: int) -> bool:
    """True when `value >= bound` is provable."""
    low = lower(value)
    return low is not None and low >= bound


def lower(value: Dim) -> int | None:
    """A proven lower bound.

    Each position takes the end of its range that makes the value least, each dimension d becomes 1 + t with
    t >= 0; when no term of what remains is negative, its constant is the bound.
    """
    if not isinstance(value, Size):
        return int(value)
    for atom in sorted(atoms(value), key=_key, reverse=True):
        if not isinstance(atom, Iota):
            continue
        factor: Dim = 0
        for monomial, coefficient in terms(value):
            powers = dict(monomial)
            if powers.get(atom, 0) == 1:
                del powers[atom]
                factor = factor + _make(
                    {tuple(sorted(powers.items(), key=lambda p: _key(p[0]))): coefficient}
                )
            elif atom in powers:
                return None
        negative = lower(-factor)
        if negative is not None and negative >= 0:
            value = replace(value, lambda a, atom=atom: atom.extent - 1 if a == atom else of(a))
        if not isinstance(value, Size):
            return int(value)
    total: Dim = 0
    for monomial, coefficient in value.terms:
        part: Dim = coefficient
        for atom, power in monomial:
            least = _least(atom)
            if least is None:
                return None
            for _ in range(power):
                part = part * (of(atom) + least)
        total = total + part
    low = 0
    for monomial, coefficient in terms(total):
        if not monomial:
            low = coefficient
        elif coefficient < 0:
            return None
    return low


def _least(atom: Atom) -> int | None:
    if isinstance(atom, Symbol):
        return 1
    if isinstance(atom, Iota) or atom.name in TRUTHS:
        return 0
    bounds = [lower(arg) for arg in atom.args]
    if atom.name == "max":
        known = [bound for bound in bounds if bound is not None]
        return max(known) if known else None
    if atom.name == "min":
        return None if None in bounds else min(bound for bound in bounds if bound is not None)
    if atom.name == "mod":
        return 0 if bounds[1] is not None and bounds[1] >= 1 else None
    if atom.name == "floordiv" and all(bound is not None and bound >= 0 for bound in bounds):
        return 0
    return None


def _times(left: Monomial, right: Monomial) -> Monomial:
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
        if isinstance(atom, Apply) and atom.name in TRUTHS:
            powers[atom] = 1
    if sum(powers.values()) > MAX_POWER:
        raise FormulaError("a size grows beyond any that a model can have")
    return tuple(sorted(powers.items(), key=lambda pair: _key(pair[0])))


def _over(left: Monomial, right: Monomial) -> Monomial | None:
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) - power
        if powers[atom] < 0:
            return None
    return tuple((atom, power) for atom, power in powers.items() if power)


def _order(monomial: Monomial) -> tuple[int, tuple[str, ...]]:
    word = tuple(sorted(_key(atom) for atom, power in monomial for _ in range(power)))
    return len(word), word


def _leading(value: Dim) -> tuple[Monomial, int]:
    return max(terms(value), key=lambda term: _order(term[0]))


class FormulaError(ValueError):
    """A size that grew beyond what any real model says."""


def _make(total: dict[Monomial, int]) -> Dim:
    kept = [(monomial, factor) for monomial, factor in total.items() if factor]
    if len(kept) > MAX_TERMS or any(abs(factor) > MAX_FACTOR for _, factor in kept):
        raise FormulaError("a size grows beyond any that a model can have")
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Size(tuple(sorted(kept, key=lambda term: _order(term[0]), reverse=True)))
