"""The bars that attention on the CPU must clear.

`python -m saccade.bench.bars` measures them in its process and prints one JSON object a line; `run` does that in a
process per instruction set, torch held to the same set.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from saccade.cli._console import Progress

THREADS = 2
AVX2 = {
    "SACCADE_CPU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


@dataclass(frozen=True)
class Bar:
    name: str
    wanted: str
    measured: str
    passed: bool
    detail: str = ""


def at_least(name: str, wanted: float, value: float, unit: str = "x", detail: str = "") -> Bar:
    shown = (lambda x: f"{100 * x:.0f} %") if unit == "%" else (lambda x: f"{x:.2f}{unit}")
    return Bar(name, f">= {shown(wanted)}", shown(value), value >= wanted, detail)


def at_most(name: str, wanted: float, value: float, unit: str = "x", detail: str = "") -> Bar:
    return Bar(name, f"<= {wanted:.2f}{unit}", f"{value:.2f}{unit}", value <= wanted, detail)


def _forward(budget: float) -> Iterator[Bar]:
    from .cases import Case
    from .measure import measure

    wanted = {(2048, 64, False): 1.25, (2048, 64, True): 1.4, (2048, 128, False): 1.25, (2048, 128, True): 1.4}
    wanted[512, 64, False] = 1.2
    for dtype in ("float32", "bfloat16"):
        for (n, d, causal), ratio in wanted.items():
            row = measure(Case(n, d, causal=causal, dtype=dtype), THREADS, budget)
            detail = f"{row.gflops:.0f} GF/s, {100 * row.share:.0f} % of FMA peak"
            yield at_least(f"{row.name} vs torch", ratio if dtype == "float32" else 1.2, row.ratio, detail=detail)
            if (n, d, causal, dtype) == (2048, 128, False, "float32"):
                yield at_least(
                    f"{row.name} of FMA peak", 0.78, row.share, "%", f"{row.gflops / row.share:.0f} GF/s peak"
                )


def _training(budget: float) -> Iterator[Bar]:
    from .cases import Case
    from .measure import measure

    for dtype, causal, ratio in (("float32", False, 1.25), ("float32", True, 1.4), ("bfloat16", False, 8.0)):
        row = measure(Case(2048, dtype=dtype, causal=causal, backward=True), THREADS, budget)
        detail = f"{row.gflops:.0f} GF/s, {100 * row.share:.0f} % of FMA peak"
        yield at_least(f"{row.name} vs torch", ratio, row.ratio, detail=detail)


def _tiles(budget: float) -> Iterator[Bar]:
    from .cases import Case, lane, verify
    from .kit import alternate

    dense = Case(2048, backward=True)
    others = [
        Case(2048, alibi=True, backward=True),
        Case(2048, window=(256, 256), backward=True),
        Case(2048, window=(256, 0), backward=True),
        Case(2048, lengths=(768, 512, 384, 256, 128), backward=True),
    ]
    for case in others:
        verify(case)
        seconds = alternate({"dense": lane(dense, dense.ours), "case": lane(case, case.ours)}, budget).seconds
        per_tile = seconds["case"] / case.tiles / (seconds["dense"] / dense.tiles)
        detail = f"{case.tiles} of {dense.tiles} register tiles, {1e3 * seconds['case']:.1f} ms"
        yield at_most(f"{case.name}, time per tile vs dense", 1.10, per_tile, detail=detail)


def _decode(budget: float) -> Iterator[Bar]:
    from .cases import Case
    from .measure import measure

    for dtype, ratio in (("float32", 5.0), ("bfloat16", 15.0)):
        row = measure(Case(1, 128, Hq=32, Hk=8, Nk=32768, dtype=dtype), THREADS, budget)
        if dtype == "float32":
            detail = f"{row.gbytes:.1f} of {row.gbytes / row.share:.1f} GB/s"
            yield at_least(f"{row.name} of read bandwidth", 0.75, row.share, "%", detail)
        yield at_least(f"{row.name} vs torch", ratio, row.ratio, detail=f"{1e3 * row.seconds:.2f} ms")


def _memory(_: float) -> Iterator[Bar]:
    # a fixed mmap threshold returns every large block to the system, so that resident memory is what is in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "saccade.bench.memory", "2048", "8192", "--threads", str(THREADS)]
    small, large = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    beyond = [r["extra"] - r["lse"] for r in (small, large)]
    detail = "; ".join(f"N={r['n']}: {r['extra'] / 2**20:.1f} MiB, lse {r['lse'] / 2**20:.2f}" for r in (small, large))
    growth = max(beyond[1], 0) / max(beyond[0], 2**20)
    yield at_most("extra memory of fwd+bwd beyond lse, N 2048 -> 8192", 4.4, growth, detail=detail)


def _demo(_: float) -> Iterator[Bar]:
    from saccade.demo.compare import step_ratio

    with contextlib.redirect_stderr(io.StringIO()):  # its progress would run into ours
        ratio = step_ratio(steps=24, threads=THREADS)
    yield at_most("demo step, saccade / torch SDPA", 1.0, ratio)


def _sigmoid(budget: float) -> Iterator[Bar]:
    from .scores import bars

    yield from bars(budget)


def _linear(budget: float) -> Iterator[Bar]:
    from .linear import bars

    yield from bars(budget)


GROUPS = {
    "forward": _forward,
    "training": _training,
    "tiles": _tiles,
    "decode": _decode,
    "memory": _memory,
    "demo": _demo,
    "sigmoid": _sigmoid,
    "linear": _linear,
}
# glibc otherwise returns the outputs' pages to the system after some calls, not after others: 3 ms of 20, in any lane
# and outputs beyond 32 MiB, which it always returns, are asked for in huge pages
STEADY = {
    "OMP_NUM_THREADS": str(THREADS),
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
COUNTS = {"forward": 11, "training": 3, "tiles": 4, "decode": 3, "memory": 1, "demo": 1, "sigmoid": 7, "linear": 8}


def instruction_sets() -> dict[str, dict[str, str]]:
    """Label -> environment: the machine as it is, and held to AVX2 where it has more."""
    import saccade

    native = saccade.info()["cpu_isa"]
    return ({"avx2": AVX2} if native == "avx512" else {}) | {native: {}}


def run(budget: float, groups: list[str] | None = None) -> dict[str, list[Bar]]:
    """Bars by instruction set, each measured in a process of its own."""
    groups = groups or list(GROUPS)
    sets = instruction_sets()
    found: dict[str, list[Bar]] = {}
    with Progress(len(sets) * sum(COUNTS[g] for g in groups), "bars") as progress:
        for label, environment in sets.items():
            command = [sys.executable, "-m", "saccade.bench.bars", "--budget", str(budget), *groups]
            worker = subprocess.Popen(command, env=os.environ | STEADY | environment, stdout=subprocess.PIPE, text=True)
            found[label] = []
            for line in worker.stdout:
                found[label].append(Bar(**json.loads(line)))
                progress.advance(f"{label}: {found[label][-1].name}")
            if worker.wait():
                raise SystemExit(
                    f"saccade bench: the process for {label} ended with status {worker.returncode}; see above"
                )
    return found


def as_dicts(found: dict[str, list[Bar]]) -> list[dict[str, Any]]:
    return [{"isa": label} | asdict(bar) for label, bars in found.items() for bar in bars]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("groups", nargs="*", choices=GROUPS)
    parser.add_argument("--budget", type=float, default=4.0)
    a = parser.parse_args()
    import torch

    torch.set_num_threads(THREADS)
    for group in a.groups or GROUPS:
        for bar in GROUPS[group](a.budget):
            print(json.dumps(asdict(bar)), flush=True)


if __name__ == "__main__":
    main()
