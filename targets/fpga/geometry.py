"""The size of one accelerator: what its RTL is built with and its programs are compiled for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from espalier.targets.fpga.isa import Instruction, spec


@dataclass(frozen=True)
class Geometry:
    """One size of the accelerator. Raises ValueError for sizes that do not fit together."""

    pes: int
    """Output rows computed at once."""
    lanes: int
    """Weights a row and cycle."""
    banks: int
    """Activation banks: features a window (the v of HP)."""
    tokens: int
    """Tokens a tile."""
    width: int
    """Banks written a cycle by the drain and the vector unit."""
    bus: int
    """Bytes a beat of external memory."""
    slot_bits: int
    act_depth: int
    wgt_depth: int
    par_depth: int
    tile_depth: int

    def __post_init__(self) -> None:
        def need(ok: bool, rule: str) -> None:
            if not ok:
                raise ValueError(f"{self.label}: {rule}")

        for name in ("pes", "lanes", "banks", "tokens", "width", "bus"):
            value = getattr(self, name)
            need(value > 0 and value & (value - 1) == 0, f"{name} is {value}, not a power of two")
        need(self.lanes <= min(self.banks, 16), "more lanes than banks, or than 16")
        need(self.tokens % self.banks == 0, "tokens is not a multiple of banks")
        need(self.pes % self.tokens == 0, "pes is not a multiple of tokens")
        need(self.width <= self.banks, "width is more than banks")
        need(self.word_bytes % self.bus == 0, "a word of activations is not a multiple of the bus")
        need(8 <= self.bus <= 128, "bus is not within 8..128 bytes")
        need(self.pes % self.params_per_word == 0, "pes is not a multiple of the parameters a word")
        need(
            self.pes <= 128 and self.banks <= 32 and self.tokens <= 64,
            "more than 128 pes, 32 banks or 64 tokens",
        )
        need(self.slot_bits in (8, 16), "slot_bits is not 8 or 16")
        need(
            self.act_depth <= 1 << 16 and self.wgt_depth <= 1 << 12,
            "a memory is deeper than its addresses reach",
        )
        need(
            self.par_depth <= 1 << 12 and self.tile_depth <= 1 << 10,
            "a memory is deeper than its addresses reach",
        )

    @property
    def label(self) -> str:
        """pes x lanes x tokens over banks, as in P16N4T8V8."""
        return f"P{self.pes}N{self.lanes}T{self.tokens}V{self.banks}W{self.width}"

    @property
    def macs(self) -> int:
        """Multiply-adds a cycle."""
        return self.pes * self.lanes * self.tokens

    @property
    def word_bytes(self) -> int:
        """Bytes of an activation word over all banks."""
        return self.banks * self.tokens

    @property
    def passes(self) -> int:
        """Dense weight words a window of `banks` features."""
        return self.banks // self.lanes

    @property
    def dense_bytes(self) -> int:
        """Bytes of the weights in a weight word, without padding."""
        return self.pes * self.lanes

    @property
    def sparse_bytes(self) -> int:
        """Bytes of a sparse weight word, without padding."""
        return self.dense_bytes + (self.pes * self.banks + self.banks * self.slot_bits) // 8

    @property
    def params_per_word(self) -> int:
        """64-bit entries of a parameter word."""
        return max(8 * self.width, self.bus) // 8

    def beats(self, memory: str) -> int:
        """Beats of external memory that a word of `memory` takes, padding included."""
        size = {
            "ACT": self.word_bytes,
            "WGT": self.sparse_bytes,
            "WGT_DENSE": self.dense_bytes,
            "PAR": 8 * self.params_per_word,
            "TAB": spec()["table_entries"],
        }[memory]
        return -(-size // self.bus)

    def start(self) -> Instruction:
        """The START instruction of programs for this geometry."""
        return Instruction("START", {"version": spec()["version"], **asdict(self)})
