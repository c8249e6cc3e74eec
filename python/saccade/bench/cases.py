"""What is timed: problems with their work in numbers, their inputs, our call, torch's call, and an fp64 check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

import saccade

# Query rows x keys that the kernels visit or skip at once: a register tile.
TILES = {"avx512": (12, 32), "avx2": (6, 16), "neon": (12, 8), "base": (6, 8)}
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}  # of the largest value of what is compared

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Case:
    """q (B, Hq, Nq, D), k and v (B, Hk, Nk, D); with `lengths` packed sequences of those lengths instead."""

    Nq: int
    D: int = 64
    Hq: int = 8
    Hk: int = 8
    B: int = 1
    Nk: int = 0  # 0: Nq
    dtype: str = "float32"
    causal: bool = False
    window: tuple[int, int] | None = None
    alibi: bool = False
    lengths: tuple[int, ...] = ()
    backward: bool = False
    score: str = "softmax"

    @property
    def keys(self) -> int:
        return self.Nk or self.Nq

    @property
    def name(self) -> str:
        heads = f"{self.Hq}" if self.Hq == self.Hk else f"{self.Hq}|{self.Hk}"
        size = f"{self.Nq}" if self.keys == self.Nq else f"{self.Nq}x{self.keys}"
        words = [
            {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.dtype],
            f"({self.B},{heads},{size},{self.D})",
        ]
        words += [self.score] * (self.score != "softmax") + ["causal"] * self.causal + ["ALiBi"] * self.alibi
        words += ["window {},{}".format(*self.window)] if self.window else []
        words += ["varlen"] * bool(self.lengths) + ["fwd+bwd" if self.backward else "fwd"]
        return " ".join(words)

    @property
    def sequences(self) -> list[tuple[int, int]]:
        """(Nq, Nk) of every sequence."""
        return [(n, n) for n in self.lengths] or [(self.Nq, self.keys)] * self.B

    def _limits(self, p: torch.Tensor, nk: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last visible key of the queries at places `p`, clipped to the sequence."""
        left, right = self.window or (-1, -1)
        first = p - left if left >= 0 else torch.zeros_like(p)
        last = p + right if right >= 0 else torch.full_like(p, nk - 1)
        return first.clamp(0, nk), (torch.minimum(last, p) if self.causal else last).clamp(-1, nk - 1)

    @property
    def pairs(self) -> int:
        """Visible (query, key) pairs, over all heads."""
        total = 0
        for nq, nk in self.sequences:
            first, last = self._limits(torch.arange(nq) + nk - nq, nk)
            total += int((last - first + 1).clamp(min=0).sum())
        return total * self.Hq

    @property
    def tiles(self) -> int:
        """Register tiles of the instruction set in use that hold a visible pair, over all heads."""
        total, (rows, keys) = 0, TILES[saccade.info()["cpu_isa"]]
        for nq, nk in self.sequences:
            starts = torch.arange(0, nq, rows)
            ends = (starts + rows - 1).clamp(max=nq - 1)
            first, _ = self._limits(starts + nk - nq, nk)
            _, last = self._limits(ends + nk - nq, nk)
            total += int((last // keys - first // keys + 1)[last >= first].sum())
        return total * self.Hq

    @property
    def flops(self) -> float:
        """2 products forward, 5 more backward (2 FLOP a multiply-add), on visible pairs."""
        return self.pairs * self.D * (14.0 if self.backward else 4.0)

    @property
    def cache_bytes(self) -> int:
        """Keys and values."""
        return 2 * sum(nk for _, nk in self.sequences) * self.Hk * self.D * getattr(torch, self.dtype).itemsize

    def inputs(self) -> tuple[Tensors, torch.Tensor]:
        """[q, k, v] and the output's gradient, N(0, 1), always the same."""
        g = torch.Generator().manual_seed(0)
        tokens = sum(self.lengths)

        def draw(heads: int, n: int) -> torch.Tensor:
            shape = (tokens, heads, self.D) if self.lengths else (self.B, heads, n, self.D)
            return torch.randn(shape, generator=g).to(getattr(torch, self.dtype))

        qkv = [draw(self.Hq, self.Nq), draw(self.Hk, self.keys), draw(self.Hk, self.keys)]
        return [t.requires_grad_(self.backward) for t in qkv], draw(self.Hq, self.Nq)

    def options(self) -> dict[str, Any]:
        found: dict[str, Any] = {"causal": self.causal, "window": self.window}
        if self.score != "softmax":
            found |= {"score": self.score, "score_bias": "neg_log_n"}
        if self.alibi:
            found["alibi_slopes"] = 2.0 ** (-8.0 * torch.arange(1, self.Hq + 1) / self.Hq)
        if self.lengths:
            offsets = torch.tensor([0, *self.lengths]).cumsum(0).int()
            found |= {"cu_seqlens_q": offsets, "cu_seqlens_k": offsets}
        return found

    def ours(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return saccade.attention(q, k, v, **self.options())

    @property
    def has_rival(self) -> bool:
        """Whether torch SDPA has this without a mask tensor."""
        return self.window is None and not self.alibi and not self.lengths

    def rival(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        causal = self.causal and self.Nq > 1
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=self.Hq != self.Hk)

    def oracle(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The formula in fp64 with its N x N matrix, one sequence and one head after another."""
        if self.lengths:
            parts = [[x.transpose(0, 1)[None] for x in t.split(list(self.lengths))] for t in (q, k, v)]
            return torch.cat([self._dense(*part)[0].transpose(0, 1) for part in zip(*parts, strict=True)])
        return self._dense(q, k, v)

    def _dense(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        nq, nk = q.shape[2], k.shape[2]
        p, j = torch.arange(nq)[:, None] + nk - nq, torch.arange(nk)[None]
        first, last = self._limits(p, nk)
        hidden = (j < first) | (j > last)
        slopes, heads = self.options().get("alibi_slopes"), []
        for h in range(self.Hq):
            kv = h * self.Hk // self.Hq
            s = q[:, h] @ k[:, kv].transpose(-1, -2) * self.D**-0.5
            if slopes is not None:
                s = s - slopes[h].double() * (p - j).abs()
            s = s.masked_fill(hidden, float("-inf"))
            heads.append((s.softmax(-1) if self.score == "softmax" else (s - math.log(nk)).sigmoid()) @ v[:, kv])
        return torch.stack(heads, 1)


def lane(case: Case, function: Callable[..., torch.Tensor]) -> Callable[[], Tensors]:
    """A call of `function` on the case's inputs, with its backward if the case says so; returns what it computed."""
    qkv, dout = case.inputs()

    def forward() -> Tensors:
        with torch.no_grad():
            return [function(*qkv)]

    def both() -> Tensors:
        out = function(*qkv)
        return [out.detach(), *torch.autograd.grad(out, qkv, dout)]

    return both if case.backward else forward


def verify(case: Case) -> float:
    """Largest error of our results against fp64 over the largest value; raises RuntimeError beyond TOLERANCE."""
    got = lane(case, case.ours)()
    qkv, dout = case.inputs()
    wide = [t.detach().double().requires_grad_(case.backward) for t in qkv]
    with torch.set_grad_enabled(case.backward):
        out = case.oracle(*wide)
    want = [out.detach(), *(torch.autograd.grad(out, wide, dout.double()) if case.backward else ())]
    error = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, want, strict=True))
    if not error <= TOLERANCE[case.dtype]:
        raise RuntimeError(f"bench: {case.name}: got an error of {error:.2g}, wanted at most {TOLERANCE[case.dtype]:g}")
    return error
