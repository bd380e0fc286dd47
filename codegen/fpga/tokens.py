"""Dependency tokens: put in by need, and checked.

Queues run at the same time; only tokens between neighbours order them. The k-th token taken from a channel is
the k-th given, so an order of program positions ("clock") is known for every instruction without running it.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from espalier.codegen.fpga.accesses import Access, accesses
from espalier.targets.fpga import isa
from espalier.targets.fpga.geometry import Geometry
from espalier.targets.fpga.isa import Instruction

QUEUES = ("load", "compute", "store")
_CHANNELS = {
    # (giver, taker): the giver's field, the taker's field
    (0, 1): ("push_next", "pop_prev"),
    (1, 0): ("push_prev", "pop_next"),
    (1, 2): ("push_next", "pop_prev"),
    (2, 1): ("push_prev", "pop_next"),
}


class TokenError(ValueError):
    """A program whose queues are not ordered as they must be. `instruction` is its number in the program."""

    def __init__(self, instruction: int, message: str) -> None:
        super().__init__(f"instruction {instruction}: {message}")
        self.instruction = instruction


class _History:
    """Accesses so far of one queue, to find the last one that conflicts with another."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[int, int, bool, int]]] = defaultdict(list)

    def add(self, position: int, items: Sequence[Access]) -> None:
        for item in items:
            self._rows[item.memory].append((item.low, item.high, item.write, position))

    def last(self, items: Sequence[Access], above: int) -> int:
        """The last position above `above` that conflicts with any of `items`; else `above`."""
        found = above
        for item in items:
            for low, high, write, position in reversed(self._rows[item.memory]):
                if position <= found:
                    break
                if (write or item.write) and low < item.high and item.low < high:
                    found = position
                    break
        return found


@dataclass
class _Clocks:
    """For each queue the last position of every queue that is known to be done."""

    known: list[np.ndarray]

    @staticmethod
    def start() -> _Clocks:
        return _Clocks([np.full(3, -1) for _ in QUEUES])


def _queue(i: Instruction) -> int:
    return QUEUES.index(i.queue)


def with_tokens(program: Sequence[Instruction], geometry: Geometry) -> list[Instruction]:
    """The program, begun with START and ended with FINISH, with the tokens that keep it as if run in order.

    `program` has neither of them, and no tokens. Raises TokenError where a load and a store conflict and no
    compute instruction stands between them to pass the token on.
    """
    work = _Tokens(program, geometry)
    for n in range(len(program)):
        work.order(n)
    body = [replace(i, values={**i.values, **f}) for i, f in zip(program, work.flags, strict=True)]
    return [geometry.start(), *body, Instruction("FINISH")]


class _Tokens:
    """Puts tokens into a program, an instruction after the other."""

    def __init__(self, program: Sequence[Instruction], geometry: Geometry) -> None:
        self._program, self._geometry = program, geometry
        self.flags: list[dict[str, int]] = [{} for _ in program]
        self._histories = [_History() for _ in QUEUES]
        self._positions: list[list[int]] = [[] for _ in QUEUES]
        self._at: list[np.ndarray] = []
        """What each instruction knows to be done when it begins, itself included."""
        self._givers: dict[tuple[int, int], int] = {}
        """Who gives an instruction its token from a queue."""

    def order(self, n: int) -> None:
        """Let instruction `n` wait for what it conflicts with."""
        q = _queue(self._program[n])
        items = accesses(self._program[n], self._geometry)
        before = self._positions[q]
        known = self._at[before[-1]].copy() if before else np.full(len(QUEUES), -1)
        known[q] = n
        self._at.append(known)
        before.append(n)
        # neighbours first: what they know may cover the queue beyond them
        for other in sorted({0, 1, 2} - {q}, key=lambda o: abs(o - q)):
            known = int(self._at[n][other])
            needed = self._histories[other].last(items, known)
            if needed > known:
                self._wait(n, needed)
        self._histories[q].add(n, items)

    def _wait(self, taker: int, giver: int) -> None:
        """Let `taker` begin after `giver` is done."""
        channel = (_queue(self._program[giver]), _queue(self._program[taker]))
        if channel in _CHANNELS:
            self._give(giver, taker, channel)
        else:
            between = self._between(taker, giver, channel)
            if self._at[between][channel[0]] < giver:
                self._give(giver, between, (channel[0], 1))
            if self._at[taker][1] < between:
                self._give(between, taker, (1, channel[1]))
            self._at[taker] = np.maximum(self._at[taker], self._at[between])

    def _between(self, taker: int, giver: int, channel: tuple[int, int]) -> int:
        """The first compute instruction that can pass a token on, as its queue takes them in order."""
        compute = self._positions[1]
        for n in compute[bisect(compute, giver) :]:
            later = (self._givers.get((m, channel[0])) for m in compute[bisect(compute, n) :])
            if all(other is None or other > giver for other in later):
                return n
        raise TokenError(
            taker, f"conflicts with {self._program[giver].text()!r} of a queue that gives it no tokens"
        )

    def _give(self, giver: int, taker: int, channel: tuple[int, int]) -> None:
        """A token from one to the other; one that the taker had from the same queue comes later then."""
        give, take = _CHANNELS[channel]
        known = self._givers.get((taker, channel[0]))
        if known is not None:
            del self.flags[known][give]
        self.flags[giver][give] = self.flags[taker][take] = 1
        self._givers[taker, channel[0]] = giver
        q = _queue(self._program[taker])
        for n in self._positions[q][bisect(self._positions[q], taker - 1) :]:
            self._at[n] = np.maximum(self._at[n], self._at[giver])


def check_tokens(program: Sequence[Instruction], geometry: Geometry) -> None:
    """Prove that a program with START and FINISH never sticks, loses a token or depends on timing.

    Raises TokenError naming the instruction: a token taken before any instruction above it gives it, a token
    nobody takes, a counter that could overflow, two queues that touch the same words in no fixed order, or a
    compute instruction that writes among the words it reads (NORM and SOFTMAX may write a tensor in place).
    """
    if not program or program[0].name != "START" or program[-1].name != "FINISH":
        raise TokenError(0, "a program begins with START and ends with FINISH")
    histories = [_History() for _ in QUEUES]
    given: dict[tuple[int, int], deque[tuple[int, np.ndarray]]] = {channel: deque() for channel in _CHANNELS}
    pushes: dict[tuple[int, int], int] = dict.fromkeys(_CHANNELS, 0)
    pops: dict[tuple[int, int], list[int]] = {channel: [] for channel in _CHANNELS}
    clocks = _Clocks.start()
    for n, instruction in enumerate(program[1:-1], 1):
        q = _queue(instruction)
        known = clocks.known[q].copy()
        for (giver, taker), (_, take) in _CHANNELS.items():
            if taker == q and instruction[take]:
                if not given[giver, taker]:
                    raise TokenError(n, f"{take}: no instruction above gives the token")
                known = np.maximum(known, given[giver, taker].popleft()[1])
                pops[giver, taker].append(n)
        known[q] = n
        clocks.known[q] = known
        items = accesses(instruction, geometry)
        if instruction.queue == "compute":
            _apart(n, instruction, items)
        for other in {0, 1, 2} - {q}:
            late = histories[other].last(items, int(known[other]))
            if late > known[other]:
                raise TokenError(
                    n, f"conflicts with instruction {late} ({program[late].name}), in no fixed order"
                )
        histories[q].add(n, items)
        for channel, (give, _) in _CHANNELS.items():
            if channel[0] == q and instruction[give]:
                pushes[channel] += 1
                # tokens surely taken by now: those whose taker this instruction knows to be done
                taken = int(np.searchsorted(pops[channel], known[channel[1]], side="right"))
                if pushes[channel] - taken > isa.spec()["token_limit"]:
                    raise TokenError(n, f"{give}: more than {isa.spec()['token_limit']} tokens may wait")
                given[channel].append((n, known))
    for channel, (give, _) in _CHANNELS.items():
        if given[channel]:
            raise TokenError(given[channel][0][0], f"{give}: nobody takes the token")
    if any(program[-1][field] for pair in _CHANNELS.values() for field in pair):
        raise TokenError(len(program) - 1, "FINISH waits for everything and needs no tokens")


def _apart(n: int, instruction: Instruction, items: Sequence[Access]) -> None:
    act = [item for item in items if item.memory == "ACT"]
    in_place = instruction.name in ("NORM", "SOFTMAX")
    for out in (item for item in act if item.write):
        for read in (item for item in act if not item.write):
            same = in_place and (out.low, out.high) == (read.low, read.high)
            if not same and out.low < read.high and read.low < out.high:
                raise TokenError(n, f"writes words {out.low}..{out.high - 1} among those it reads")
