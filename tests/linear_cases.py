"""The linear-attention cases: what to compute, its inputs, the float64 oracle, and how far from it a kernel may be.

The oracle is the dense form of the recurrence (every pair's decay the exponential of a difference), differentiated by
autograd; no chunk, no state between tokens. The budget is that of tolerance.py: FACTOR times the error of the dense
composition in the operands' dtype, plus the rounding that no careful evaluation avoids. Every result is a sum of
products; `magnitudes` adds up their absolute values, and SUMS of their roundings are granted. A decay's gradient is a
running sum of differences q.dq - k.dk that mostly cancel: what each carries adds up like a random walk. For float64
operands the oracle's own roundings are as large as the kernel's: 16 times as much, and what its running sums of log
decays carry.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

import torch
from cases import _laid_out
from tolerance import FACTOR, GRADIENT_FACTOR, Expected, error
from torch import Tensor

SUMS = 4.0


@dataclass(frozen=True)
class LinearCase:
    """One problem; `lengths` makes it packed and then replaces B and N."""

    name: str
    B: int = 1
    Hq: int = 2
    Hk: int = 2
    Hv: int = 2
    N: int = 40
    D: int = 16
    Dv: int = 16
    dtype: str = "float32"
    decay: str | None = None  # head, token, channel
    strength: float = 0.1  # mean of -log_decay
    scale: float = 0.25
    normalize: bool = False  # operands are positive then
    feature: str | None = None
    causal: bool = True
    reverse: bool = False
    state: bool = False  # initial and final
    chunk: int | None = None
    lengths: tuple[int, ...] | None = None
    layout: str = "contiguous"

    def __str__(self) -> str:
        return self.name


@dataclass
class LinearInputs:
    case: LinearCase
    tensors: dict[str, Tensor]  # query, key, value, and present: log_decay, initial_state
    options: dict
    dout: Tensor
    dstate: Tensor | None

    @property
    def kwargs(self) -> dict:
        return {k: t for k, t in self.tensors.items() if k not in ("query", "key", "value")} | self.options


def make(case: LinearCase) -> LinearInputs:
    g = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    dtype = getattr(torch, case.dtype)
    statistic = torch.float64 if dtype == torch.float64 else torch.float32
    heads = max(case.Hq, case.Hk, case.Hv)
    batch, n = (case.B, case.N) if case.lengths is None else (len(case.lengths), sum(case.lengths))

    def tokens(h: int, *d: int) -> tuple[int, ...]:
        return (case.B, h, n, *d) if case.lengths is None else (n, h, *d)

    def randn(*shape: int) -> Tensor:
        x = torch.randn(shape, generator=g, dtype=torch.float64)
        return x.abs() + 0.1 if case.normalize and case.feature is None else x

    t = {
        name: _laid_out(randn(*tokens(h, d)).to(dtype), case.layout)
        for name, h, d in (("query", case.Hq, case.D), ("key", case.Hk, case.D), ("value", case.Hv, case.Dv))
    }
    if case.decay:
        shape = {"head": (heads,), "token": tokens(heads), "channel": tokens(heads, case.D)}[case.decay]
        t["log_decay"] = (-2 * case.strength * torch.rand(shape, generator=g, dtype=torch.float64)).to(statistic)
    rows = 1 + case.D + case.D * (case.D + 1) // 2 if case.feature else case.D
    state = (batch, heads, rows, case.Dv + case.normalize)
    if case.state:
        t["initial_state"] = randn(*state).abs().to(statistic) if case.normalize else randn(*state).to(statistic)
    options = {"scale": case.scale, "normalize": case.normalize, "feature": case.feature, "causal": case.causal,
               "reverse": case.reverse, "chunk": case.chunk}  # fmt: skip
    if case.lengths is not None:
        options["cu_seqlens"] = torch.tensor((0, *case.lengths)).cumsum(0).to(torch.int32)
    dout = torch.randn(tokens(heads, case.Dv), generator=g, dtype=torch.float64).to(dtype)
    dstate = torch.randn(state, generator=g, dtype=torch.float64).to(statistic) if case.state else None
    return LinearInputs(case, t, options, dout, dstate)


def features(x: Tensor, scale: float | None) -> Tensor:
    """1, x_m, x_m x_n (m <= n) of a key; of a query with the factors that make the product 1 + s + s**2 / 2."""
    d = x.shape[-1]
    m, n = torch.triu_indices(d, d)
    square = x[..., m] * x[..., n]
    if scale is None:
        return torch.cat([torch.ones_like(x[..., :1]), x, square], -1)
    return torch.cat([torch.ones_like(x[..., :1]), scale * x, scale**2 * torch.where(m == n, 0.5, 1.0) * square], -1)


def dense(t: dict[str, Tensor], o: dict) -> tuple[Tensor, Tensor]:
    """(numerator with a last column for the denominator, final state) of (B, H, N, ...) inputs, by the formula."""
    heads = max(t[x].shape[1] for x in ("query", "key", "value"))
    q, k, v = (t[x].repeat_interleave(heads // max(t[x].shape[1], 1), 1) for x in ("query", "key", "value"))
    if o["reverse"]:
        q, k, v = (x.flip(2) for x in (q, k, v))
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    n, low = q.shape[2], q.dtype
    statistic = torch.float64 if low == torch.float64 else torch.float32
    g = t.get("log_decay")
    if g is None:
        g = torch.zeros(1, 1, n, 1, dtype=statistic)
    else:
        g = g[None, :, None, None].expand(1, -1, n, 1) if g.dim() == 1 else g[..., None] if g.dim() == 3 else g
        g = g.flip(2) if o["reverse"] and g.shape[2] == n and t["log_decay"].dim() > 1 else g
    total = g.cumsum(2)  # G_t; log_decay keeps its own type, the products have the operands'
    earlier = torch.ones(n, n, dtype=torch.bool).tril() if o["causal"] else torch.ones(n, n, dtype=torch.bool)
    difference = (total[:, :, :, None] - total[:, :, None]).masked_fill(~earlier[..., None], -torch.inf)
    if o["feature"]:
        s = o["scale"] * (q @ k.mT)
        weights = (1 + s + s * s / 2) * earlier
    elif difference.shape[-1] == 1:
        weights = o["scale"] * (q @ k.mT) * difference[..., 0].exp().to(low)
    else:
        weights = o["scale"] * torch.einsum("bhtc,bhsc,bhtsc->bhts", q, k, difference.exp().to(low))
    out = weights @ v
    initial = t.get("initial_state")
    inner, outer = (features(q, o["scale"]), features(k, None)) if o["feature"] else (o["scale"] * q, k)
    to_end = (total[:, :, -1:] - total).exp() if n else total.exp()
    state = (outer.to(statistic) * to_end).mT @ v.to(statistic)
    if initial is not None:
        if not o["normalize"]:
            initial = torch.cat([initial, torch.zeros_like(initial[..., :1])], -1)
        out = out + ((inner.to(statistic) * total.exp()) @ initial).to(low)
        state = state + (total[:, :, -1].exp()[..., None] * initial if n else initial)
    out = out.flip(2) if o["reverse"] else out
    return out, state if o["normalize"] else state[..., :-1]


def attention(t: dict[str, Tensor], o: dict, raw: bool = False) -> tuple[Tensor, Tensor]:
    """(out, final state) of dense or packed inputs; `raw`: (numerator | denominator) in out's place."""

    def finish(out: Tensor) -> Tensor:
        if raw:
            return out
        return out[..., :-1] / (out[..., -1:] + 1e-6) if o["normalize"] else out[..., :-1]

    if "cu_seqlens" not in o:
        out, state = dense(t, o)
        return finish(out), state
    bounds, parts = o["cu_seqlens"].tolist(), []
    for b in range(len(bounds) - 1):
        own = {
            k: x[bounds[b] : bounds[b + 1]].transpose(0, 1)[None]
            for k, x in t.items()
            if x.dim() > 1 and k != "initial_state"
        }
        own |= {k: x[b : b + 1] if k == "initial_state" else x for k, x in t.items() if k not in own}
        parts.append(dense(own, o))
    out = torch.cat([out[0].transpose(0, 1) for out, _ in parts])
    return finish(out), torch.cat([state for _, state in parts])


def gradients(inputs: LinearInputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs and gradients by name; operands in `dtype`, decays and states in float32 at least."""
    statistic = torch.float64 if dtype == torch.float64 else torch.float32
    t = {
        k: x.detach().to(dtype if k in ("query", "key", "value") else statistic).clone().requires_grad_(True)
        for k, x in inputs.tensors.items()
    }
    out, state = attention(t, inputs.options)
    loss = (out * inputs.dout.to(out.dtype)).sum().to(statistic)
    if inputs.dstate is not None:
        loss = loss + (state * inputs.dstate.to(state.dtype)).sum()
    grads = torch.autograd.grad(loss, list(t.values()), allow_unused=True)
    named = {f"d{k}": torch.zeros_like(x) if g is None else g for (k, x), g in zip(t.items(), grads, strict=True)}
    results = {"out": out.detach(), **named}
    return results | ({"state": state.detach()} if inputs.dstate is not None else {})


def magnitudes(inputs: LinearInputs, ref: dict[str, Tensor]) -> dict[str, Tensor]:
    """For every result the sum of the absolute values of the products that it adds up."""
    t = {k: x.detach().double().clone().requires_grad_(True) for k, x in inputs.tensors.items()}
    positive = {k: x if k == "log_decay" else x.abs() for k, x in t.items()}
    o = inputs.options | {"scale": abs(inputs.options["scale"])}
    raw, state = attention(positive, o, raw=True)
    dout = inputs.dout.double().abs()
    if o["normalize"]:
        with torch.no_grad():
            den = attention(t, inputs.options, raw=True)[0][..., -1:].abs() + 1e-6
        dout = dout / den
        dout = torch.cat([dout, 2 * (dout * ref["out"].abs()).sum(-1, keepdim=True)], -1)
        own = (raw[..., :-1] + ref["out"].abs() * raw[..., -1:]) / den
    else:
        own, dout = raw[..., :-1], torch.cat([dout, torch.zeros_like(dout[..., :1])], -1)
    loss = (raw * dout).sum() + (0 if inputs.dstate is None else (state * inputs.dstate.double().abs()).sum())
    grads = torch.autograd.grad(loss, list(t.values()), allow_unused=True)
    found = {"out": own.detach(), "state": state.detach()}
    found |= {
        f"d{k}": torch.zeros_like(x) if g is None else g.abs() for (k, x), g in zip(t.items(), grads, strict=True)
    }
    if "log_decay" in t:
        found["dlog_decay"] = _decay_walk(inputs, t, found)
    return found


def _decay_walk(inputs: LinearInputs, t: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
    """What q.dq - k.dk carry, added up like a random walk along the tokens that a decay's gradient sums over."""
    g, packed = t["log_decay"], "cu_seqlens" in inputs.options
    heads = max(t[x].shape[1] for x in ("query", "key", "value"))

    def dots(name: str) -> Tensor:
        x = (t[name].abs() * found[f"d{name}"]).detach()
        return x.repeat_interleave(heads // max(x.shape[1], 1), 1)

    e = dots("query") + dots("key")
    if g.dim() == 1:
        n = e.shape[0 if packed else 2]
        walk = n * e.sum(-1).square().sum([0] if packed else [0, 2]).sqrt()
    else:
        e = e if g.dim() == e.dim() else e.sum(-1)
        axis = 0 if packed else 2
        walk = e.square().sum(axis, keepdim=True).sqrt().expand_as(e)
    state = 0 if inputs.dstate is None else (found["state"] * inputs.dstate.double().abs()).sum((-1, -2)).max()
    return walk + state * (1 if g.dim() > 1 else max(inputs.case.B, 1) * inputs.case.N)


@functools.cache
def expected_of(case: LinearCase) -> tuple[LinearInputs, Expected]:
    inputs = make(case)
    dtype = getattr(torch, case.dtype)
    ref, naive = gradients(inputs, torch.float64), gradients(inputs, dtype)
    ux = torch.finfo(dtype).eps / 2
    u = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps / 2
    noise = magnitudes(inputs, ref)
    sums = SUMS
    if dtype == torch.float64:
        sums = 16 * SUMS + (2 * case.strength * max(case.lengths or (case.N,)) if case.decay else 0)
    tiny = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).smallest_normal
    budget = {}
    for name, x in ref.items():
        ok = naive[name].isfinite()
        top, mean = error(naive[name][ok], x[ok])
        factor = FACTOR.get(name, GRADIENT_FACTOR)
        low = name in ("out", "dquery", "dkey", "dvalue")
        stored = ux if case.normalize and name != "out" else 0  # the backward reads `out` as it was rounded
        floor = (sums * u + stored) * noise[name] + (ux if low else u) * x.abs() + tiny
        budget[name] = (
            factor * top + (floor.max().item() if floor.numel() else 0.0),
            factor * mean + (floor.mean().item() if floor.numel() else 0.0),
        )
    return inputs, Expected(ref, budget)


def _cases() -> list[LinearCase]:
    c = LinearCase
    found = [c("plain"), c("scaled", scale=-1.5), c("one_token", N=1), c("two_tokens", N=2, state=True, decay="token")]
    for decay in ("head", "token", "channel"):
        found += [
            c(f"{decay}", decay=decay, N=130, B=2),
            c(f"{decay}_state", decay=decay, N=197, state=True),
            c(f"{decay}_reverse", decay=decay, N=101, reverse=True, state=True),
            c(f"{decay}_packed", decay=decay, lengths=(5, 0, 130, 1, 64), state=True),
            c(f"{decay}_packed_reverse", decay=decay, lengths=(70, 3), reverse=True),
            c(f"{decay}_strong", decay=decay, strength=50.0, N=100, state=True),
            c(f"{decay}_weak", decay=decay, strength=1e-4, N=300),
            c(f"{decay}_bf16", decay=decay, dtype="bfloat16", N=150, state=True, D=64, Dv=64),
            c(f"{decay}_f16", decay=decay, dtype="float16", N=97, D=32, Dv=48),
            c(f"{decay}_grouped", decay=decay, Hq=4, Hk=2, Hv=1, N=65),
            c(f"{decay}_value_heads", decay=decay, Hq=1, Hk=1, Hv=3, N=65, D=24, state=True),
        ]
    found += [
        c(f"n{n}", N=n, decay="head", state=True, strength=0.02) for n in (15, 16, 63, 64, 65, 95, 96, 97, 128, 193)
    ]
    sizes = ((1, 1), (7, 33), (33, 7), (80, 96), (128, 64), (64, 128), (129, 65), (256, 40), (40, 256))
    found += [c(f"d{d}_{e}", D=d, Dv=e, decay="token", N=70, state=True, scale=d**-0.5) for d, e in sizes]
    found += [c(f"chunk{n}", chunk=n, decay="channel", N=75, state=True) for n in (1, 16, 33, 500)]
    found += [
        c("wide_bf16", dtype="bfloat16", D=128, Dv=128, decay="head", N=200, scale=0.1),
        c("widest_f16", dtype="float16", D=256, Dv=256, decay="token", N=70, scale=0.05),
        c("normalize", normalize=True, N=150),
        c("normalize_state", normalize=True, decay="token", N=97, state=True),
        c("normalize_channel", normalize=True, decay="channel", N=97, state=True, reverse=True),
        c("normalize_bf16", normalize=True, decay="head", N=97, dtype="bfloat16", D=64, Dv=64),
        c("normalize_packed", normalize=True, lengths=(33, 64, 0, 2), Hq=4, Hk=2, Hv=2, state=True),
        c("normalize_wide", normalize=True, D=64, Dv=256, N=70),
        c("global", causal=False, N=130),
        c("global_state", causal=False, N=130, state=True, Dv=24),
        c("global_normalize", causal=False, normalize=True, lengths=(40, 0, 97), state=True),
        c("global_bf16", causal=False, dtype="bfloat16", N=70, Hq=4, Hk=2, Hv=2),
        c("bnhd", layout="bnhd", decay="channel", N=66, B=2),
        c("sliced", layout="sliced", decay="token", N=66, D=12, Dv=20),
        c("sliced_packed", layout="sliced", decay="head", lengths=(30, 41), D=9, Dv=11, dtype="bfloat16"),
        c("taylor", feature="taylor2", normalize=True, N=130),
        c("taylor_plain", feature="taylor2", N=97, state=True, D=7, Dv=33),
        c("taylor_state", feature="taylor2", normalize=True, N=100, state=True, D=12),
        c("taylor_packed", feature="taylor2", normalize=True, lengths=(20, 0, 101), Hq=4, Hk=2, Hv=2, D=8),
        c("taylor_reverse", feature="taylor2", normalize=True, N=97, reverse=True, D=5, Dv=9),
        c("taylor_global", feature="taylor2", normalize=True, N=97, causal=False, D=8),
        c("taylor_bf16", feature="taylor2", normalize=True, N=97, dtype="bfloat16", D=16, Dv=64),
    ]  # fmt: skip
    return found


CASES = _cases()
