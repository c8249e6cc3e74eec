"""The bars of linear attention: tokens per second by length, against a chunked composition in torch, and its step."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

import saccade

from . import roofline
from .kit import alternate
from .measure import FMA_ROUNDS

HEADS, DIM, CHUNK = 8, 64, 96  # CHUNK: what the CPU kernels choose
LENGTHS = (1024, 4096, 16384, 65536, 131072)
TOLERANCE = 2e-5  # of the largest value

Tensors = list[torch.Tensor]


@functools.cache
def inputs(n: int) -> Tensors:
    """q, k, v and the output's gradient, (1, 8, n, 64)."""
    g = torch.Generator().manual_seed(0)
    return [torch.randn(1, HEADS, n, DIM, generator=g) for _ in range(4)]


def slopes() -> torch.Tensor:
    return torch.tensor(saccade.linear.alibi_slopes(HEADS))


def ours(n: int, backward: bool = False) -> Callable[[], Tensors]:
    q, k, v, dout = inputs(n)
    return call(lambda *qkv: saccade.lightning_attention(*qkv, slopes=slopes()), [q, k, v], dout if backward else None)


def composition(n: int, block: int = 128) -> Callable[..., torch.Tensor]:
    """Chunked linear attention as one writes it in torch: batched products within blocks, a scan over their states."""
    g = -slopes()[:, None]
    i = torch.arange(block)
    within = torch.exp(g[..., None] * (i[:, None] - i)).tril()  # (H, C, C)
    into, onward = torch.exp(g * (i + 1))[..., None], torch.exp(g * (block - 1 - i))[..., None]
    whole = torch.exp(g * block)[..., None]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        b, h, n, d = q.shape
        q, k, v = (x.view(b, h, n // block, block, d).transpose(1, 2) for x in (q, k, v))  # (B, chunks, H, C, D)
        local = (k * onward).mT @ v
        states, state = [], torch.zeros_like(local[:, 0])
        for part in local.unbind(1):
            states.append(state)
            state = whole * state + part
        out = ((q @ k.mT) * within) @ v + (q * into) @ torch.stack(states, 1)
        return (out * d**-0.5).transpose(1, 2).reshape(b, h, n, d)

    return attend


def call(function: Callable[..., torch.Tensor], qkv: Tensors, dout: torch.Tensor | None) -> Callable[[], Tensors]:
    leaves = [x.detach().requires_grad_(dout is not None) for x in qkv]

    def run() -> Tensors:
        if dout is None:
            with torch.no_grad():
                return [function(*leaves)]
        out = function(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, dout)]

    return run


def verify(n: int) -> None:
    """Our results and the composition's against the dense formula in fp64; RuntimeError beyond TOLERANCE."""
    q, k, v, dout = inputs(n)
    i = torch.arange(n)
    decay = torch.exp(-slopes().double()[:, None, None] * (i[:, None] - i).clamp(min=0)).tril()
    dense = call(lambda q, k, v: ((q @ k.mT) * decay * DIM**-0.5) @ v, [x.double() for x in (q, k, v)], dout.double())
    want = dense()
    for name, run in {"ours": ours(n, True), "composition": call(composition(n), [q, k, v], dout)}.items():
        error = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(run(), want, strict=True))
        if not error <= TOLERANCE:
            raise RuntimeError(f"bench: linear, {name}: got an error of {error:.2g}, wanted at most {TOLERANCE:g}")


def flops(n: int) -> float:
    """Of the chunked form: every pair of a chunk in two products, every token with the state in two more."""
    return HEADS * n * (4.0 * DIM * DIM + (CHUNK + 1) * 2 * DIM)


def _limit(work: float, threads: int) -> float:
    time.sleep(0.01)  # OpenMP threads of the lane before still spin for a while and would share the cores
    return work / roofline.fma(saccade.info()["cpu_isa"], threads, FMA_ROUNDS)


def bars(budget: float) -> Iterator:
    from .bars import THREADS, at_least, at_most

    verify(1024)
    lanes: dict[str, Callable[[], object]] = {str(n): ours(n) for n in LENGTHS}
    lanes["limit"] = lambda: _limit(flops(16384), THREADS)
    timing = alternate(lanes, 4 * budget)
    rate = {n: n / timing.seconds[str(n)] for n in LENGTHS}
    middle = statistics.median(rate.values())
    detail = ", ".join(f"{n >> 10}k {x / 1e6:.2f} M/s" for n, x in rate.items())
    spread = max(abs(x / middle - 1) for x in rate.values())
    yield at_most(
        "lightning fwd, tokens/s from 1k to 128k, distance from their median, 7 %", 1.0, spread / 0.07, detail=detail
    )
    peak = flops(16384) / timing.seconds["limit"]
    shares = {n: flops(n) * x / n / peak for n, x in rate.items()}
    detail = ", ".join(f"{n >> 10}k {100 * x:.0f} %" for n, x in shares.items())
    yield at_least("lightning fwd (1,8,N,64) of FMA peak, the worst N", 0.55, min(shares.values()), "%", detail)

    for n in (1024, 8192):
        q, k, v, dout = inputs(n)
        timing = alternate({"ours": ours(n, True), "torch": call(composition(n), [q, k, v], dout)}, budget)
        detail = f"{1e3 * timing.seconds['ours']:.1f} ms"
        yield at_least(
            f"lightning (1,8,{n},64) fwd+bwd vs chunked torch", 3.0, timing.ratio("torch", "ours"), detail=detail
        )
    for backward in (False, True):
        q, k, v, dout = inputs(1024)
        softmax = call(lambda *x: saccade.softmax_attention(*x, causal=True), [q, k, v], dout if backward else None)
        timing = alternate({"ours": ours(1024, backward), "softmax": softmax}, budget)
        name = "fwd+bwd" if backward else "fwd"
        yield at_least(f"lightning (1,8,1024,64) {name} vs our causal softmax", 1.0, timing.ratio("softmax", "ours"))

    q, k, v = (torch.randn(32, 16, 128) for _ in range(3))
    state, decay = torch.zeros(32, 16, 128, 128), torch.full((16,), -0.1)
    moved = 2 * state.numel() * 4
    step = lambda: saccade.linear_attention_step(q, k, v, state, log_decay=decay)  # noqa: E731
    isa = saccade.info()["cpu_isa"]
    timing = alternate({"ours": step, "limit": lambda: moved / roofline.read(isa, THREADS)}, budget)
    detail = f"{moved / timing.seconds['ours'] / 1e9:.1f} GB/s read and written"
    yield at_least("linear step (32,16,128x128) of read bandwidth", 0.75, timing.ratio("limit", "ours"), "%", detail)

    yield from _memory()


def _memory() -> Iterator:
    from .bars import THREADS, at_most

    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "saccade.bench.memory", "8192", "32768", "--threads", str(THREADS)]
    command += ["--attention", "lightning"]
    small, large = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    slope = (large["extra"] - small["extra"]) / (large["n"] - small["n"]) / HEADS
    detail = "; ".join(f"N={r['n']}: {r['extra'] / 2**20:.1f} MiB" for r in (small, large))
    detail += f"; {slope:.0f} bytes a token and head"
    growth = max(large["extra"], 0) / max(small["extra"], 2**20)
    yield at_most("extra memory of lightning fwd+bwd, N 8192 -> 32768", 4.4, growth, detail=detail)
