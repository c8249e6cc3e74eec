"""Tokens in their heads and sequences, and running means over them: what the modules share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

import saccade


def split(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, H, N, D) without a copy; packed (T, C) -> (T, H, D)."""
    x = x.unflatten(-1, (heads, -1))
    return x.transpose(1, 2) if x.dim() == 4 else x


def merge(x: Tensor) -> Tensor:
    """The inverse of `split`."""
    return (x.transpose(1, 2) if x.dim() == 4 else x).flatten(-2)


def grown(x: Tensor, heads: int) -> Tensor:
    """The heads of x (B, Hk, N, D) or packed (T, Hk, D), each repeated for the query heads that read it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def statistic(dtype: torch.dtype) -> torch.dtype:
    """What sums over tokens are kept in."""
    return dtype if dtype == torch.float64 else torch.float32


def sequence_of(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """(T,): the number of the sequence that each packed token belongs to."""
    at = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), at, right=True)


def place_of(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """(T,): the place of each packed token in its sequence, from 0."""
    return torch.arange(tokens, device=cu_seqlens.device) - cu_seqlens[sequence_of(cu_seqlens, tokens)]


def unrounded(x: Tensor) -> AbstractContextManager:
    """Out of autocast, which knows no meta device."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def head_dim(fn: str, width: int, heads: int, kv_heads: int | None = None) -> int:
    """Channels of a head."""
    if heads < 1 or width % heads:
        raise ValueError(
            f"{fn}: heads: got {heads}, wanted a divisor of the width {width}; every head has as many channels"
        )
    if kv_heads is not None and (kv_heads < 1 or heads % kv_heads):
        raise ValueError(f"{fn}: kv_heads: got {kv_heads}, wanted a divisor of {heads} heads; every one serves as many")
    return width // heads


def ordered(module: nn.Module) -> None:
    if not module.causal:
        raise ValueError(
            f"{type(module).__name__}: step: got causal=False, wanted a causal module; pass causal=True to it"
        )


def padded_or_packed(fn: str, mask: Tensor | None, cu_seqlens: Tensor | None) -> None:
    if mask is not None and cu_seqlens is not None:
        raise ValueError(f"{fn}: mask: got it with cu_seqlens, wanted one of them; packed sequences have no padding")


def checked(fn: str, name: str, got: object, wanted: tuple) -> None:
    if got not in wanted:
        raise ValueError(f"{fn}: {name}: got {got!r}, wanted one of {', '.join(map(repr, wanted))}; pass one of them")


class Clock(NamedTuple):
    """Time of a causal call. t counts a sequence's real tokens up to and including this one.

    With it prefix sums become prefix means, mean_t = (t-1)/t mean_{t-1} + x_t / t, which is a decayed scan: states stay
    of the size of one token's however long the stream.
    """

    t: Tensor  # (B, 1, N), packed (T, 1), one step (B, 1); at least 1
    real: Tensor | None  # bool, as t; None: all
    count: Tensor  # (B,) after the last token
    cu_seqlens: Tensor | None = None
    one: bool = False  # one step: no axis of tokens

    def mean(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """q_t . mean_{s <= t} k_s^T v_s, (B, H, N, Dv), and the mean (B, H, D, Dv) after the last token.

        q (B, H, N, D), k (B, H, N, D), v (B, H, N, Dv); packed and one step without the axis that they lack.
        """
        heads = max(x.shape[1] for x in (q, k, v))
        v = v / self.t[..., None]
        decay = torch.where(self.t > 1, torch.log1p(-1 / self.t.clamp(min=2)), 0.0)
        if self.real is not None:
            v, decay = v * self.real[..., None], decay * self.real
        decay = decay.expand(-1, heads, *self.t.shape[2:])
        with unrounded(q):  # 1 / t in bfloat16 would bias every mean
            if self.one:
                if state is None:
                    state = v.new_zeros(q.shape[0], heads, q.shape[-1], v.shape[-1])
                return saccade.linear_attention_step(q, k, v, state, log_decay=decay), state
            return saccade.linear_attention(
                q, k, v, log_decay=decay, initial_state=state, return_state=True, cu_seqlens=self.cu_seqlens
            )

    def last(self, x: Tensor, otherwise: Tensor) -> Tensor:
        """(B, H, ...) of x (B, H, N, ...) or packed (T, H, ...) at the last token; `otherwise` without tokens."""
        if self.one:
            return x
        if self.cu_seqlens is None:
            return x[:, :, -1] if x.shape[2] else otherwise
        some = (self.cu_seqlens.diff() > 0).reshape(-1, *[1] * (x.dim() - 1))
        return torch.where(some, x[(self.cu_seqlens[1:] - 1).clamp(min=0)], otherwise) if len(x) else otherwise


def clock(
    q: Tensor, start: Tensor | None, *, mask: Tensor | None = None, cu_seqlens: Tensor | None = None, one: bool = False
) -> Clock:
    """The clock of a call on q (B, H, N, D), packed (T, H, D) or one step (B, H, D), `start` (B,) tokens in.

    `mask` (B, N): False marks padding, which does not count.
    """
    dtype, batch = statistic(q.dtype), q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    start = torch.zeros(batch, dtype=torch.int64, device=q.device) if start is None else start
    if one:
        return Clock((start + 1)[:, None].to(dtype), None, start + 1, one=True)
    if cu_seqlens is not None:
        t = start[sequence_of(cu_seqlens, len(q))] + place_of(cu_seqlens, len(q)) + 1
        return Clock(t[:, None].to(dtype), None, start + cu_seqlens.diff(), cu_seqlens)
    if mask is None:
        t = start[:, None] + torch.arange(1, q.shape[2] + 1, device=q.device)
        return Clock(t[:, None].to(dtype), None, start + q.shape[2])
    t = start[:, None] + mask.cumsum(1)
    return Clock(t.clamp(min=1)[:, None].to(dtype), mask[:, None], start + mask.sum(1))
