"""Trains the attentions side by side, a few steps of each in turn so that a noisy machine hits all alike."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from saccade.cli._console import Progress, table

from .attentions import ATTENTIONS

TURN = 4  # steps of one attention before the next has its turn
FEWEST, MOST = 60, 300
LENGTHS, ROUNDS = (512, 1024, 2048, 4096, 8192), 3  # for tokens per second; the median of the rounds counts
# Attentions that differ in float32 rounding only stay 1e-6 apart for 20 steps and 1e-5 for 100; a temperature wrong by
# 1 % shows as 1e-4 at the first step and 4e-3 within 20. Training amplifies rounding (a step's loss differs by 1e-2 at
# 250 steps), so in the end it is what the models have learnt that is compared: measured 1e-3.
EARLY, EARLY_TOLERANCE, HELD_OUT_TOLERANCE = 20, 1e-4, 2e-2


class Worker:
    """A `saccade.demo.train` process."""

    def __init__(self, name: str, total: int, options: argparse.Namespace):
        command = [sys.executable, "-m", "saccade.demo.train", name, "--total", str(total), "--seed", str(options.seed)]
        command += ["--threads", str(options.threads), "--config", options.config]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"saccade demo: the run with {self.name} ended with status {self.process.wait()}; see above"
            )
        return json.loads(line)

    def send(self, **order: object) -> None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def seconds_per_round(options: argparse.Namespace) -> float:
    """A step of every attention on a quiet machine: the fastest of three. `train` stops in time if it is not."""
    worker = Worker(next(iter(ATTENTIONS)), 1, options)
    worker.send(steps=4)
    times = [worker.read()["seconds"] for _ in range(4)]
    worker.close()
    return min(times[1:]) * len(ATTENTIONS)


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Loss and seconds of every step, held-out loss, peak memory and a sample for each attention."""
    steps = options.steps or min(MOST, max(FEWEST, int(options.seconds / seconds_per_round(options))))
    workers = {name: Worker(name, steps, options) for name in ATTENTIONS}
    runs: dict[str, dict[str, Any]] = {n: {"title": ATTENTIONS[n].title, "loss": [], "seconds": []} for n in workers}
    with Progress(steps * len(workers), "training, steps") as progress:
        begin = time.monotonic()
        for start in range(0, steps, TURN):
            if not options.steps and start >= FEWEST and time.monotonic() - begin > 1.1 * options.seconds:
                steps = start  # the machine became slower than it was when the steps were counted
                break
            for name, worker in workers.items():
                count = min(TURN, steps - start)
                worker.send(steps=count)
                for _ in range(count):
                    answer, r = worker.read(), runs[name]
                    r["loss"].append(answer["loss"])
                    r["seconds"].append(answer["seconds"])
                    shown = (f"{n} {r['loss'][-1]:.3f} {r['seconds'][-1]:.2f} s" for n, r in runs.items() if r["loss"])
                    progress.advance(" | ".join(shown))
    with Progress(len(workers), "sampling") as progress:
        for name, worker in workers.items():
            worker.send(finish=options.sample)
            runs[name] |= worker.read()
            progress.advance(name)
    speed(options.lengths, workers, runs)
    return {"steps": steps, "runs": runs, "machine": platform.processor() or platform.machine()}


def speed(lengths: Sequence[int], workers: dict[str, Worker], runs: dict[str, dict[str, Any]]) -> None:
    """Adds to each run the tokens per second of forward and backward by sequence length, and ends the workers."""
    for r in runs.values():
        r["tokens_per_second"] = {}
    with Progress(len(lengths), "speed by length") as progress:
        for length in lengths:
            seconds: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(ROUNDS):
                for name, worker in workers.items():
                    worker.send(length=length)
                    seconds[name].append(worker.read()["seconds"])
            for name in workers:
                runs[name]["tokens_per_second"][length] = length / statistics.median(seconds[name])
            progress.advance(str(length))
    for worker in workers.values():
        worker.close()


def step_ratio(steps: int, threads: int) -> float:
    """Median step time of saccade over torch SDPA's, from a short training of both in turn."""
    options = argparse.Namespace(steps=steps, seconds=0.0, threads=threads, seed=0, sample=1, config="{}", lengths=())
    runs = train(options)["runs"]
    return statistics.median(runs["saccade"]["seconds"][4:]) / statistics.median(runs["torch"]["seconds"][4:])


def judge(result: dict[str, Any]) -> list[str]:
    """What went wrong with the loss curves that must coincide; also stores the gaps in the runs."""
    faults = []
    for name, r in result["runs"].items():
        tail = max(1, result["steps"] // 10)
        r["step"] = statistics.median(r["seconds"][1:] or r["seconds"])
        r["final"] = statistics.fmean(r["loss"][-tail:])
        other = ATTENTIONS[name].same_as
        if not other:
            continue
        gaps = [abs(a - b) for a, b in zip(r["loss"], result["runs"][other]["loss"], strict=True)]
        r["gap"] = [math.inf if math.isnan(g) else g for g in gaps]  # max() does not see a NaN
        r["early_gap"] = max(r["gap"][:EARLY])
        r["largest_gap"] = max(r["gap"])
        held_out = abs(r["held_out"] - result["runs"][other]["held_out"])
        for what, gap, limit in (
            (f"loss within {EARLY} steps", r["early_gap"], EARLY_TOLERANCE),
            ("held-out loss", held_out, HELD_OUT_TOLERANCE),
        ):
            if not gap <= limit:
                faults.append(f"{name}: {what} differs from {other}'s by {gap:.2g}, wanted at most {limit:g}")
    return faults


HEADERS = [
    "attention",
    "loss, last tenth",
    "held-out loss",
    "ms/step",
    "peak memory, MiB",
    f"largest loss gap, first {EARLY}",
    "all",
]


def summary(result: dict[str, Any]) -> list[list[object]]:
    return [
        [
            r["title"],
            f"{r['final']:.4f}",
            f"{r['held_out']:.4f}",
            f"{1e3 * r['step']:.1f}",
            f"{r['memory'] / 2**20:.0f}",
            f"{r['early_gap']:.1e}" if "gap" in r else "",
            f"{r['largest_gap']:.1e}" if "gap" in r else "",
        ]
        for r in result["runs"].values()
    ]


def speeds(result: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Headers and rows: thousands of tokens per second, forward and backward, by sequence length."""
    runs = result["runs"].values()
    lengths = list(next(iter(runs))["tokens_per_second"])
    headers = ["1000 tokens/s, N =", *(str(n) for n in lengths)]
    return headers, [[r["title"], *(f"{x / 1e3:.1f}" for x in r["tokens_per_second"].values())] for r in runs]


def run(options: argparse.Namespace) -> int:
    """Trains, prints and writes the report; 1 when curves that must coincide do not."""
    if not options.no_plots:
        from saccade.cli._plot import pyplot

        pyplot()  # missing matplotlib is better known now than after the training
    begin = time.monotonic()
    result = train(options)
    faults = judge(result)
    result["wall"] = time.monotonic() - begin
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1))
    last = result["runs"]["saccade"]
    print(table(HEADERS, summary(result)))
    if options.lengths:
        print("\n" + table(*speeds(result)))
    print(f"\n{last['parameters'] / 1e6:.1f} M parameters, {result['steps']} steps each, {result['wall']:.0f} s in all")
    print(f"\n{last['title']} continues “{last['prompt']}”:\n{last['prompt']}{last['text']}\n")
    if not options.no_plots:
        from .report import write

        print(f"report: {write(result, HEADERS, summary(result), out)}")
    print("\n".join(f"FAILED {f}" for f in faults) or "the loss curves coincide")
    return 1 if faults else 0
