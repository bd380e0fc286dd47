"""Make the records that come with Espalier, for the core that this runs on.

Tunes the linear layers of MiniLM, BERT-base and TinyBERT by themselves, under the structures of our
benchmarks, on one thread. It can be stopped and goes on from WORK; --learn writes
search/shipped-CORE.jsonl and .json.

    python benchmarks/shipped_records.py --work out/records.jsonl --tokens 128 --trials 540 --minutes 8
    python benchmarks/shipped_records.py --work out/records.jsonl --tokens 32 --trials 150 --minutes 8
    python benchmarks/shipped_records.py --work out/records.jsonl --learn
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["TVM_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from espalier.schedules import Epilogue, LinearWork, linear_candidates
from espalier.schedules.estimate import ByRule
from espalier.search.learn import examples, learn
from espalier.search.measure import Local
from espalier.search.record_file import RecordsFile, compact, read_records
from espalier.search.records import Place
from espalier.search.tune import Budget, Progress, Task, Tuner
from espalier.sparsity import BP, HP, Dense, Structure, Unstructured
from espalier.targets.cpu import Cpu
from espalier.targets.host import host

ROOT = Path(__file__).resolve().parents[1]
Shape = tuple[int, int]

STRUCTURES: dict[str, Callable[[Shape], Structure]] = {
    "dense": lambda shape: Dense(),
    "hp75": lambda shape: HP.for_sparsity(shape, 0.75),
    "hp75-g4": lambda shape: HP.for_sparsity(shape, 0.75, g=4),
    "hp90": lambda shape: HP.for_sparsity(shape, 0.9),
    "hp90-g4": lambda shape: HP.for_sparsity(shape, 0.9, g=4),
    "bp90": lambda shape: BP.for_sparsity(shape, 0.9),
    "unstructured90": lambda shape: Unstructured.for_sparsity(shape, 0.9),
}
MODELS: list[tuple[int, int, tuple[str, ...], tuple[int, ...]]] = [
    (384, 1536, tuple(STRUCTURES), (128, 32, 1)),
    (768, 3072, tuple(STRUCTURES), (128, 1)),
    (312, 1200, ("dense", "hp90", "hp90-g4", "unstructured90"), (128,)),
]
"""Width, width inside, structures and numbers of tokens."""


def layers(width: int, inside: int) -> list[tuple[Shape, Epilogue]]:
    """Query, key and value in one; after attention; up; down."""
    return [
        ((3 * width, width), Epilogue(bias=True)),
        ((width, width), Epilogue(bias=True, residual=True)),
        ((inside, width), Epilogue(bias=True, activation="gelu")),
        ((width, inside), Epilogue(bias=True, residual=True)),
    ]


def tasks(cpu: Cpu, m: int) -> Iterator[Task]:
    """The layers for m tokens."""
    for width, inside, structures, tokens in MODELS:
        for shape, epilogue in layers(width, inside) if m in tokens else ():
            for name in structures:
                works = [
                    LinearWork(*shape, STRUCTURES[name](shape), epilogue, layout)
                    for layout in ("tiles", "tokens")
                ]
                bases = tuple(kernel for work in works for kernel in linear_candidates(work, cpu))
                # every layer counts alike, however long it takes
                count = 1 / min(base.milliseconds(m, 1) for base in bases)
                yield Task(f"{shape[0]}x{shape[1]} {name}", bases, m, count)


def tell(progress: Progress) -> None:
    print(
        f"{progress.trials}/{progress.of}, {progress.seconds_left:.0f} s left, "
        f"{progress.untuned_ms:.1f} -> {progress.best_ms:.1f}, {progress.task}",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--tokens", type=int, choices=(128, 32, 1), default=128)
    parser.add_argument("--learn", action="store_true")
    options = parser.parse_args()
    cpu = host()
    if options.learn:
        records = [record for record in read_records(options.work) if record.place.core == cpu.mcpu]
        trees = learn(examples(records, cpu))
        assert trees is not None, "too few records"
        stem = ROOT / "search" / f"shipped-{cpu.mcpu}"
        stem.with_suffix(".jsonl").write_text(compact(records))
        stem.with_suffix(".json").write_text(trees.to_json())
        return
    place = Place(cpu.mcpu, cpu.clock_ghz, 1)
    file = RecordsFile(options.work)
    tuner = Tuner(list(tasks(cpu, options.tokens)), Local(cpu, 1), cpu, file, place, untuned=ByRule())
    for tuned in tuner.run(Budget(options.trials, options.minutes * 60), tell):
        print(tuned.task.label, tuned.task.tokens, tuned.untuned, f"{tuned.untuned_ms:.4f}", tuned.best,
              f"{tuned.best_ms:.4f}", f"{tuned.untuned_ms / tuned.best_ms:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
