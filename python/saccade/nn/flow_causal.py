"""Flow attention over the past, as a recurrence in running means. Source and status: `flow.py`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saccade.nn._sequence import Clock, clock, grown, padded_or_packed, place_of, statistic

NONE = -1e30  # the logarithm of no mass; finite, since -inf minus -inf is NaN


class FlowState(NamedTuple):
    """What the past leaves: means, so that nothing grows with the stream. float32, float64 for float64 operands."""

    count: Tensor  # (B,) int64, tokens so far
    k: Tensor  # (B, H, D, 1): mean k
    q: Tensor  # mean q
    k_out: Tensor  # mean k / O
    q_in: Tensor  # mean q / I
    mass: Tensor  # (B, H): ln mean exp(O')
    kv: Tensor  # (B, H, D, Dv)


def causal_flow_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    clamp: float | None = 1.0,
    epsilon: float = 1e-6,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    initial_state: FlowState | None = None,
) -> tuple[Tensor, FlowState]:
    """Flow attention in which token t sees what tokens 1 .. t said when each of them was the last.

    q and k are non-negative already. In means over s <= t, epsilon added to every component of the outer q_t and k_t
    and epsilon / t to every component of a mean::

        I_t = q_t . mean k_s              O_t = k_t . mean q_s
        I'_t = q_t . mean k_s / O_s       O'_t = clamp(k_t . mean q_s / I_s)
        out_t = sigmoid(I'_t) (q_t / I_t) . mean k_s (c_s v_s)      c_t = exp(O'_t) / mean exp(O'_s)

    Args:
        q, k, v, clamp, epsilon, cu_seqlens: as in `flow_attention`, k and v as long as q.
        mask: bool (B, N), True = a real token; others count as absent, and out is 0 there.
        initial_state: what an earlier call returned.

    Returns: out (B, H, N, Dv) or (T, H, Dv), dtype of v, and the state. Both differentiable.
    """
    padded_or_packed("causal_flow_attention", mask, cu_seqlens)
    start = None if initial_state is None else initial_state.count
    return _flow(q, k, v, initial_state, clock(q, start, mask=mask, cu_seqlens=cu_seqlens), clamp, epsilon)


@torch.no_grad()
def causal_flow_attention_step(
    q: Tensor, k: Tensor, v: Tensor, state: FlowState | None, *, clamp: float | None = 1.0, epsilon: float = 1e-6
) -> tuple[Tensor, FlowState]:
    """One token: q (B, H, D), k (B, Hk, D), v (B, Hk, Dv) -> out (B, H, Dv) and the state, its tensors overwritten."""
    return _flow(q, k, v, state, clock(q, None if state is None else state.count, one=True), clamp, epsilon)


def _flow(q: Tensor, k: Tensor, v: Tensor, state: FlowState | None, now: Clock, clamp: float | None, epsilon: float):
    dtype, acc, heads = v.dtype, statistic(v.dtype), q.shape[1]
    q, k, v = q.to(acc), grown(k, heads).to(acc), grown(v, heads).to(acc)
    past = state or FlowState(*[None] * 7)
    small = epsilon / now.t[..., None]

    def flow(x: Tensor, y: Tensor, w: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
        """(x + epsilon) . (mean y w + epsilon / t), (B, H, N, 1)."""
        out, mean = now.mean(x + epsilon, y, w, mean)
        return out + small * (x + epsilon).sum(-1, keepdim=True), mean

    ones = q.new_ones(*q.shape[:-1], 1)
    incoming, mean_k = flow(q, k, ones, past.k)
    outgoing, mean_q = flow(k, q, ones, past.q)
    conserved_in, mean_k_out = flow(q, k, 1 / outgoing, past.k_out)
    conserved_out, mean_q_in = flow(k, q, 1 / incoming, past.q_in)
    if clamp is not None:
        conserved_out = conserved_out.clamp(-clamp, clamp)
    logit = conserved_out[..., 0]
    if now.real is not None:
        logit = torch.where(now.real, logit, NONE)
    log_mean = _log_mean(logit, state, now)
    v = v * torch.exp(logit - log_mean)[..., None]
    y, mean_kv = now.mean(q / incoming, k, v, past.kv)
    y = torch.sigmoid(conserved_in) * y
    if now.real is not None:
        y = y * now.real[..., None]
    empty = mean_kv.new_full(mean_kv.shape[:2], NONE) if state is None else state.mass
    mass = now.last(log_mean, empty)
    return y.to(dtype), FlowState(now.count, mean_k, mean_q, mean_k_out, mean_q_in, mass, mean_kv)


def _log_mean(x: Tensor, state: FlowState | None, now: Clock) -> Tensor:
    """ln mean_{s <= t} exp(x_s), shape of x: (B, H, N), packed (T, H), one step (B, H). Never leaves logarithms."""
    before = None if state is None else state.mass + state.count.clamp(min=1).to(x.dtype).log()[:, None]
    if now.cu_seqlens is not None:
        place = place_of(now.cu_seqlens, len(x))
        total = _prefix_logsumexp(x.T, place).T
        if before is not None:
            total = torch.logaddexp(total, before.repeat_interleave(now.cu_seqlens.diff(), 0, output_size=len(x)))
    elif now.one:
        total = x if before is None else torch.logaddexp(x, before)
    else:
        total = _prefix_logsumexp(x, torch.arange(x.shape[-1], device=x.device))
        if before is not None:
            total = torch.logaddexp(total, before[..., None])
    return total - now.t.log()


def _prefix_logsumexp(x: Tensor, place: Tensor) -> Tensor:
    """x (..., N), place (N,) in the sequence, from 0: sums over 1, 2, 4, … tokens, none beyond a sequence's first."""
    width = 1
    while width < x.shape[-1]:
        x = torch.where(place >= width, torch.logaddexp(x, x.roll(width, -1)), x)
        width *= 2
    return x
