"""One case timed beside torch SDPA and beside the machine's limit."""

from __future__ import annotations

import time
from dataclasses import dataclass

import saccade

from . import roofline
from .cases import Case, lane, verify
from .kit import alternate

QUERIES_OF_DECODE = 16  # below it keys and values are read once and memory is the limit
FMA_ROUNDS = 8_000_000


@dataclass(frozen=True)
class Row:
    """Seconds are medians of `rounds`; `share` is of the FMA peak, or of the read bandwidth where `memory`."""

    name: str
    seconds: float
    rival_seconds: float | None
    gflops: float
    gbytes: float
    share: float
    memory: bool
    error: float
    rounds: int

    @property
    def ratio(self) -> float | None:
        return None if self.rival_seconds is None else self.rival_seconds / self.seconds


def measure(case: Case, threads: int, budget: float = 4.0, fewest: int = 5) -> Row:
    """Checks the result against fp64, then times saccade, torch SDPA (if it has the case) and the limit in turn."""
    error = verify(case)
    isa = saccade.info()["cpu_isa"]
    memory = case.Nq <= QUERIES_OF_DECODE

    def limit() -> float:  # seconds that the case's work takes at the machine's limit
        time.sleep(0.01)  # OpenMP threads of the lane before still spin for a while and would share the cores
        if memory:
            return case.cache_bytes / roofline.read(isa, threads)
        return case.flops / roofline.fma(isa, threads, FMA_ROUNDS)

    lanes = {"ours": lane(case, case.ours), "limit": limit}
    if case.has_rival:
        lanes["rival"] = lane(case, case.rival)
    timing = alternate(lanes, budget, fewest)
    seconds = timing.seconds["ours"]
    return Row(
        case.name,
        seconds,
        timing.seconds.get("rival"),
        case.flops / seconds / 1e9,
        case.cache_bytes / seconds / 1e9,
        timing.seconds["limit"] / seconds,
        memory,
        error,
        timing.rounds,
    )
