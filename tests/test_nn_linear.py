"""The linear systems of saccade.nn against their formulas in float64, with every T x T matrix in the open."""

from __future__ import annotations

import pytest
import torch
from nn_helpers import agree, close, heads, inputs, joined, offsets, stirred
from saccade import nn
from saccade.nn import flow, inline
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6


# Flow


def flow_dense(q: Tensor, k: Tensor, v: Tensor, clamp: float | None) -> Tensor:
    """q (n, D), k (m, D), v (m, Dv) of one head, q and k non-negative."""
    n, m = len(q), len(k)
    into, out = (q + EPS) @ (k.sum(0) + EPS), (k + EPS) @ (q.sum(0) + EPS)
    kept_in = (q + EPS) @ ((k / out[:, None]).sum(0) + EPS)
    kept_out = (k + EPS) @ ((q / into[:, None]).sum(0) + EPS)
    if clamp is not None:
        kept_out = kept_out.clamp(-clamp, clamp)
    w = (q / into[:, None]) @ k.T * (m * torch.softmax(kept_out, 0))
    return torch.sigmoid(kept_in * n / m)[:, None] * (w @ v)


def flow_causal_dense(q: Tensor, k: Tensor, v: Tensor, clamp: float | None) -> Tensor:
    """The sums and the factors t of the published form; the past as an explicit triangle."""
    n = len(q)
    t = torch.arange(1, n + 1, dtype=q.dtype)
    past = torch.ones(n, n, dtype=q.dtype).tril()
    into = ((q + EPS) * (past @ k + EPS)).sum(-1)
    out = ((k + EPS) * (past @ q + EPS)).sum(-1)
    kept_in = ((q + EPS) * (past @ (k * (t / out)[:, None]) + EPS)).sum(-1) / t
    kept_out = ((k + EPS) * (past @ (q * (t / into)[:, None]) + EPS)).sum(-1) / t
    if clamp is not None:
        kept_out = kept_out.clamp(-clamp, clamp)
    c = t * torch.exp(kept_out - torch.logsumexp(kept_out.expand(n, n).masked_fill(past == 0, float("-inf")), -1))
    return torch.sigmoid(kept_in)[:, None] * ((past * ((q / into[:, None]) @ k.T)) @ (c[:, None] * v))


def flow_module(m: nn.FlowAttention, x: Tensor) -> Tensor:
    feature = torch.sigmoid if m.feature == "sigmoid" else lambda y: torch.relu(y) + 1e-6
    q, k, v = heads(feature(m.q(x)), m.heads), heads(feature(m.k(x)), m.kv_heads), heads(m.v(x), m.kv_heads)
    group, dense = m.heads // m.kv_heads, flow_causal_dense if m.causal else flow_dense
    y = [[dense(q[b, h], k[b, h // group], v[b, h // group], m.clamp) for h in range(m.heads)] for b in range(len(x))]
    return m.out(joined(torch.stack([torch.stack(row) for row in y])))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("clamp", [1.0, 0.95, None])
@pytest.mark.parametrize("feature", ["sigmoid", "relu"])
def test_flow(causal, clamp, feature):
    module = stirred(nn.FlowAttention(12, 4, kv_heads=2, causal=causal, clamp=clamp, feature=feature))
    # features of 1e-6 give O' of 1e5: exp overflows in float32, and a clamp's edge is met or missed by rounding
    agree(module, flow_module, inputs(2, 11, 12), single=feature == "sigmoid" or not causal)


@pytest.mark.parametrize("causal", [False, True])
def test_flow_padding_is_absence(causal):
    """Left, right and inner padding: rows of real tokens as if the others were not there, and 0 elsewhere."""
    module = stirred(nn.FlowAttention(12, 2, causal=causal))
    with torch.no_grad():
        module.out.bias.zero_()
    x, mask = inputs(4, 9, 12), torch.ones(4, 9, dtype=torch.bool)
    mask[0, :3], mask[1, 6:], mask[2, 2:5], mask[3] = False, False, False, False
    x = x.masked_fill(~mask[..., None], 50.0).requires_grad_(True)
    got = module(x, mask=mask)
    for b in range(3):
        close(got[b, mask[b]], flow_module(module, x[b : b + 1, mask[b]])[0])
    assert not got[~mask].any()
    (grad,) = torch.autograd.grad(got.square().sum(), x)
    assert grad.isfinite().all() and not grad[~mask].any()


def test_flow_goes_on_after_padding():
    """Prompts of different lengths in one batch, then steps."""
    module, x, mask = (
        stirred(nn.FlowAttention(12, 2, causal=True)),
        inputs(2, 9, 12),
        torch.ones(2, 6, dtype=torch.bool),
    )
    mask[0, 4:] = mask[1, :3] = False
    _, state = module(x[:, :6], mask=mask, return_state=True)
    for t in range(6, 9):
        out, state = module.step(x[:, t], state)
        for b in range(2):
            close(out[b], flow_module(module, torch.cat([x[b, :6][mask[b]], x[b, 6 : t + 1]])[None])[0, -1])


@pytest.mark.parametrize("causal", [False, True])
def test_flow_is_padded_or_packed(causal):
    with pytest.raises(ValueError, match="flow_attention: mask: got it with cu_seqlens"):
        nn.FlowAttention(12, 2, causal=causal)(torch.zeros(4, 12), cu_seqlens=offsets((4,)), mask=torch.ones(1, 4) > 0)


def test_flow_of_other_keys():
    q, k, v = (torch.sigmoid(inputs(2, 3, n, 4, seed=n)) for n in (7, 5, 6))
    k, v = k[:, :1], v[:, :1, :5]
    want = torch.stack([torch.stack([flow_dense(q[b, h], k[b, 0], v[b, 0], 1.0) for h in range(3)]) for b in range(2)])
    close(flow.flow_attention(q, k, v), want)


def test_flow_conserves():
    """A clamp of 0 leaves no competition: weights sum to 1, the allocation is all, and I' n / m has the mean 1."""
    q, k = torch.sigmoid(inputs(1, 2, 64, 8)), torch.sigmoid(inputs(1, 2, 48, 8, seed=1))
    allocation = flow.flow_attention(q, k, torch.ones(1, 2, 48, 1).double(), clamp=0.0)
    close(allocation.logit().mean(2), torch.ones(1, 2, 1), 1e-5)


def test_flow_is_linear_in_the_values():
    q, k, v = (torch.sigmoid(inputs(1, 2, 30, 4, seed=n)) for n in range(3))
    for f in (flow.flow_attention, lambda *a: flow.causal_flow_attention(*a)[0]):
        close(f(q, k, 3 * v), 3 * f(q, k, v))


def test_flow_states_do_not_grow():
    """Means of what is drawn alike stay alike, over 4000 tokens as over 40; float32 as float64."""
    q, k, v = (torch.sigmoid(inputs(1, 2, 4000, 4, seed=n)) for n in range(3))
    short = flow.causal_flow_attention(q[:, :, :40], k[:, :, :40], v[:, :, :40])[1]
    out, long = flow.causal_flow_attention(q, k, v)
    for a, b in zip(short[1:], long[1:], strict=True):
        assert (a - b).abs().max() < 0.5 * (1 + a.abs().max())
    close(flow.causal_flow_attention(q.float(), k.float(), v.float())[0], out, 1e-5)


# InLine


def inline_dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """One head; the weights in the open."""
    s = scale / len(k) * (q @ k.T)
    w = s - s.mean(-1, keepdim=True) + 1 / len(k)
    assert torch.allclose(w.sum(-1), torch.ones(len(w), dtype=w.dtype))
    return w @ v


def filtered(m: nn.LocalResidual, x: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
    """The 3 x 3 sums in loops, the grouped 1 x 1 convolutions as block-diagonal products."""
    (rows, columns), (batch, tokens, width) = grid, v.shape
    r = x.mean(1)
    for conv in (m.make[0], m.make[2]):
        groups = conv.groups
        w = conv.weight[..., 0].unflatten(0, (groups, -1))
        r = torch.einsum("bgi,goi->bgo", r.unflatten(-1, (groups, -1)), w).flatten(1) + conv.bias
        r = F.gelu(r) if conv is m.make[0] else r
    r = r.view(batch, width, 3, 3)
    first = tokens - rows * columns
    image = F.pad(v[:, first:].view(batch, rows, columns, width), (0, 0, 1, 1, 1, 1))
    y = sum(image[:, a : a + rows, c : c + columns] * r[:, None, None, :, a, c] for a in range(3) for c in range(3))
    return torch.cat([torch.zeros(batch, first, width, dtype=v.dtype), y.flatten(1, 2)], 1)


def inline_module(m: nn.InLineAttention, x: Tensor, grid=None) -> Tensor:
    q, k, v = m.qkv(x).chunk(3, -1)
    scale = (x.shape[-1] // m.heads) ** -0.5 if m.scale is None else m.scale
    y = [[_inline_head(m.causal, *qkv, scale) for qkv in zip(*one, strict=True)] for one in zip(
        *(heads(t, m.heads) for t in (q, k, v)), strict=True)]  # fmt: skip
    y = joined(torch.stack([torch.stack(row) for row in y]))
    return m.out(y if m.residual is None else y + filtered(m.residual, x, v, grid))


def _inline_head(causal: bool, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    if not causal:
        return inline_dense(q, k, v, scale)
    return torch.cat([inline_dense(q[t - 1 : t], k[:t], v[:t], scale) for t in range(1, len(q) + 1)])


@pytest.mark.parametrize("causal", [False, True])
def test_inline(causal):
    agree(stirred(nn.InLineAttention(12, 3, causal=causal)), inline_module, inputs(2, 10, 12))


@pytest.mark.parametrize("grid, tokens", [((2, 5), 10), ((3, 3), 10), ((1, 8), 10)])
def test_inline_local_residual(grid, tokens):
    """Rectangular grids; the tokens before them are class tokens."""
    agree(
        stirred(nn.InLineAttention(12, 3, residual=True)),
        lambda m, x: inline_module(m, x, grid),
        inputs(2, tokens, 12),
        call=lambda m, x: m(x, grid=grid),
    )


def test_inline_laws():
    q, k, v = (inputs(1, 4, 12, 6, seed=n) for n in range(3))
    f, order = inline.inline_attention, torch.randperm(12)
    constant = torch.full_like(v, 2.5)
    close(f(q, k, constant), constant)
    close(inline.causal_inline_attention(q, k, constant)[0], constant)
    close(f(0 * q, k, v), v.mean(2, keepdim=True).expand_as(v))
    close(f(q[:, :, order], k[:, :, order], v[:, :, order]), f(q, k, v)[:, :, order])
    close(f(q, k[:, :2], v[:, :2]), f(q, k[:, :2].repeat_interleave(2, 1), v[:, :2].repeat_interleave(2, 1)))
    weights = f(q, k, torch.eye(12, dtype=q.dtype).expand(1, 4, 12, 12))  # centred keys of full column rank
    assert (weights[:, :, :, None] - weights[:, :, None]).norm(dim=-1)[..., ~torch.eye(12, dtype=bool)].min() > 1e-3


def test_inline_does_not_cancel():
    """Keys and values far from 0: the centred form keeps float32's accuracy where sums of products lose it."""
    q, k, v = inputs(1, 1, 200, 8), inputs(1, 1, 200, 8, seed=1) + 300, inputs(1, 1, 200, 8, seed=2) + 300
    for f in (inline.inline_attention, lambda *a: inline.causal_inline_attention(*a)[0]):
        close(f(q.float(), k.float(), v.float()), f(q, k, v), 1e-6)


# Based


def based_module(m: nn.BasedAttention, x: Tensor) -> Tensor:
    q, k, v = (heads(f(x), m.heads) for f in (m.q, m.k, m.v))
    s = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    w = 1 + s + s * s / 2
    w = w.tril() if m.causal else w
    return m.out(joined(w @ v / (w.sum(-1, keepdim=True) + 1e-12)))


@pytest.mark.parametrize("causal", [False, True])
def test_based(causal):
    agree(stirred(nn.BasedAttention(12, 3, feature=6, causal=causal)), based_module, inputs(2, 11, 12))


def test_based_is_the_published_feature_map():
    """The products of [1, x / F^1/4, vec(x x^T) / sqrt(2 F)] of all 1 + F + F^2 features."""
    m = nn.BasedAttention(16, 2).double()
    x = inputs(1, 9, 16)
    q, k, v = (heads(f(x), 2) for f in (m.q, m.k, m.v))

    def phi(y):
        square = (y[..., :, None] * y[..., None, :]).flatten(-2)
        return torch.cat([torch.ones_like(y[..., :1]), y / 16**0.25, square / (2 * 16) ** 0.5], -1)

    w = (phi(q) @ phi(k).transpose(-1, -2)).tril()
    assert phi(q).shape[-1] == 273 and w[w != 0].min() >= 0.5
    close(m(x), m.out(joined(w @ v / w.sum(-1, keepdim=True))))
    assert m(x, return_state=True)[1].shape == (1, 2, 153, 9)


# Convolutions


def conv_loop(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None = None) -> Tensor:
    """x (B, N, C), tap by tap."""
    repeat, kernel = x.shape[-1] // len(weight), weight.shape[1]
    outs = []
    for t in range(x.shape[1]):
        y = torch.zeros_like(x[:, 0]) if bias is None else bias.repeat(repeat).expand_as(x[:, 0])
        for r in range(kernel):
            at = t - kernel + 1 + r
            row = x[:, at] if at >= 0 else None if before is None else before[:, kernel - 1 + at]
            y = y if row is None else y + weight[:, r].repeat(repeat) * row
        outs.append(y)
    return torch.stack(outs, 1)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("shared", [1, 3])
@pytest.mark.parametrize("silu", [False, True])
def test_short_conv(kernel, shared, silu):
    module = stirred(nn.ShortConv(12, kernel, heads=shared, silu=silu))
    act = F.silu if silu else lambda y: y
    agree(module, lambda m, x: act(conv_loop(x, m.weight, m.bias)), inputs(2, 6, 12))
    agree(
        module,
        lambda m, x, before: act(conv_loop(x, m.weight, m.bias, before)),
        inputs(2, 6, 12),
        inputs(2, kernel - 1, 12),
        call=lambda m, x, before: m(x, initial_state=before),
    )


def test_short_conv_packed_with_states():
    """Sequences shorter than the kernel keep a part of their old state."""
    m, lengths = stirred(nn.ShortConv(6, 4)), (1, 0, 5, 2)
    x, before = inputs(8, 6), inputs(4, 3, 6, seed=1)
    got, state = m(x, cu_seqlens=offsets(lengths), initial_state=before, return_state=True)
    for b, (one, out) in enumerate(zip(x.split(lengths), got.split(lengths), strict=True)):
        if len(one):
            close(out[None], conv_loop(one[None], m.weight, m.bias, before[b : b + 1]))
        close(state[b], torch.cat([before[b], one])[-3:])


def test_gated_convolutions():
    agree(
        stirred(nn.BaseConv(6)),
        lambda m, x: conv_loop(x, m.conv.weight, m.conv.bias) * (x @ m.gate.weight.T + m.gate.bias) + x,
        inputs(2, 5, 6),
    )
    agree(
        stirred(nn.BaseConv(6, 2, silu=True)),
        lambda m, x: F.silu(conv_loop(x, m.conv.weight, m.conv.bias)) * F.silu(m.gate(x)) + x,
        inputs(2, 5, 6),
    )

    def gated(m, x):
        u1, u2 = (x @ m.proj.weight.T + m.proj.bias).split(12, -1)
        return m.out(F.silu(conv_loop(u1, m.conv.weight, m.conv.bias)) * u2)

    agree(stirred(nn.GatedConv(6)), gated, inputs(2, 5, 6))


# TransNormer

SLOPES = [2**-2, 2**-4, 2**-6, 2**-8]
LOG_DECAY = {
    "alibi_layer": [-s * (1 - 1 / 3 + 1e-5) for s in SLOPES],
    "linear_head": [-(8 * h / 4) * (1 - 1 / 4) for h in range(4)],
    "retnet": [torch.tensor(1 - 2.0 ** (-5 - h)).double().log().item() for h in range(4)],
    "none": [0.0] * 4,
}


def transnormer_module(m: nn.TransNormer, x: Tensor, decay: str, norm: str, gate: str) -> Tensor:
    q, k, v = heads(F.silu(m.q(x)), 4), heads(F.silu(m.k(x)), 4), m.v(x)
    v = heads(F.silu(v) if m.silu_value else v, 4)
    apart = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])[None]
    past = torch.exp(apart * torch.tensor(LOG_DECAY[decay], dtype=x.dtype)[:, None, None]).tril()
    if m.lrpe is None:
        s = q @ k.transpose(-1, -2)
    else:
        turn = torch.cos(m.lrpe.theta[:, None, None] * apart[..., None])
        s = torch.einsum("bhtc,bhsc,htsc->bhts", q, k, turn)
    y = joined((m.scale * s * past) @ v)
    if norm == "srms":
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
    elif norm == "layer":
        y = (y - y.mean(-1, keepdim=True)) * torch.rsqrt(y.var(-1, keepdim=True, unbiased=False) + 1e-5)
        y = y * m.norm.weight + m.norm.bias
    if gate == "linear":
        y = y * (x @ m.gate.weight.T)
    elif gate == "sigmoid":
        y = y * torch.sigmoid(x @ m.gate[0].weight.T @ m.gate[1].weight.T)
    return m.out(y)


@pytest.mark.parametrize(
    "decay, norm, gate, lrpe, silu",
    [
        ("alibi_layer", "srms", "linear", True, False),
        ("alibi_layer", "layer", "sigmoid", False, True),
        ("linear_head", "none", "none", False, False),
        ("retnet", "srms", "none", True, True),
        ("none", "layer", "linear", False, False),
    ],
)
def test_transnormer(decay, norm, gate, lrpe, silu):
    m = nn.TransNormer(16, 4, layer=1, layers=4, lrpe=lrpe, decay=decay, norm=norm, gate=gate, silu_value=silu)
    agree(stirred(m), lambda m, x: transnormer_module(m, x, decay, norm, gate), inputs(2, 10, 16))


def test_transnormer_starts():
    m = nn.TransNormer(16, 4, lrpe=True, decay=[-1.0, -2.0, -3.0, -4.0])
    i = torch.arange(16).view(4, 4).double()
    close(m.lrpe.theta, 10000 ** (-2 * i / 16), 1e-6)
    assert m.bfloat16().log_decay.tolist() == [-1.0, -2.0, -3.0, -4.0]
    with pytest.raises(ValueError, match="TransNormer: decay: got 'fast', wanted one of 'alibi_layer'"):
        nn.TransNormer(16, 4, decay="fast")
