"""Alternating medians: every lane runs once per round, so that a change of the machine's mood hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

SHORT = 0.02  # seconds; a lane that takes less is called several times in its turn

Lane = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Medians in seconds by lane, and how many rounds they come from."""

    seconds: dict[str, float]
    rounds: int

    def ratio(self, slow: str, fast: str) -> float:
        """How many times faster `fast` is than `slow`."""
        return self.seconds[slow] / self.seconds[fast]


def alternate(lanes: dict[str, Lane], budget: float = 4.0, fewest: int = 5, most: int = 60) -> Timing:
    """Runs the lanes in turn for about `budget` seconds, after two calls of each. A lane may return its own seconds."""
    calls = {}
    for name, lane in lanes.items():
        lane()
        start = time.perf_counter()
        lane()
        calls[name] = max(1, min(50, int(SHORT / max(time.perf_counter() - start, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in lanes}
    begin = time.perf_counter()
    rounds = 0
    while rounds < fewest or (rounds < most and time.perf_counter() - begin < budget):
        order = list(lanes) if rounds % 2 == 0 else list(lanes)[::-1]  # nobody always follows the same neighbour
        for name in order:
            if calls[name] > 1:
                lanes[name]()  # wakes the threads that slept through the other lanes
            start = time.perf_counter()
            for _ in range(calls[name]):
                own = lanes[name]()
            spent = (time.perf_counter() - start) / calls[name]
            times[name].append(own if isinstance(own, float) else spent)
        rounds += 1
    return Timing({name: statistics.median(t) for name, t in times.items()}, rounds)
