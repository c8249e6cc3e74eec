"""The softmax and ReLU systems of saccade.nn against their formulas in float64."""

from __future__ import annotations

import copy

import pytest
import saccade
import torch
from nn_helpers import agree, close, heads, inputs, joined, offsets, stirred
from saccade import nn
from torch import Tensor
from torch.nn import functional as F


def repeated(x: Tensor, h: int) -> Tensor:
    return x.repeat_interleave(h // x.shape[1], 1)


# Selective attention


def tau(m: nn.SelectiveTemperature | None, x: Tensor, projected: Tensor, i: Tensor, parts: str, form: str) -> Tensor:
    """(B, H, N)."""
    y = torch.ones(*x.shape[:2], 1, dtype=x.dtype)
    if m is None:
        return y.transpose(1, 2)
    if "pos" in parts:
        rate = {"paper": lambda a: 1 / (1 + torch.exp(-a)), "repo": lambda a: torch.exp(-torch.exp(a)),
                "linear": lambda a: a}[form](m.alpha)  # fmt: skip
        y = y + rate * torch.log(i)[:, None]
    if "tok" in parts:
        f = F.gelu(projected) @ m.token.weight.T if m.shared else x @ m.token.weight.T + m.token.bias
        y = y + torch.tanh(f)
    return y.transpose(1, 2)


def selective(m: nn.SelectiveAttention, x: Tensor, parts: dict, form: str) -> Tensor:
    n, group = x.shape[1], m.heads // m.kv_heads
    d = torch.arange(n)[:, None] - torch.arange(n)[None]
    see = d >= 0 if m.causal else d == d
    see = see if m.window is None else see & (d <= m.window)
    i = torch.arange(1, n + 1, dtype=x.dtype) if m.causal else torch.full((n,), n, dtype=x.dtype)
    i = i if m.limit is None else see.sum(-1).to(x.dtype)
    t = {}
    for name, proj in (("query", m.q), ("key", m.k), ("value", m.v)):
        module = m.temperatures[name] if parts.get(name) else None
        t[name] = tau(module, x, proj(x), i, parts.get(name) or "", form)
    q, k, v = heads(m.q(x), m.heads), heads(m.k(x), m.kv_heads), heads(m.v(x), m.kv_heads)
    k, v = ((y * t[name][..., None]).repeat_interleave(group, 1) for name, y in (("key", k), ("value", v)))
    s = t["query"][..., None] * (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return m.out(joined(torch.softmax(s.masked_fill(~see, float("-inf")), -1) @ v))


SELECTIVE = [
    ({"query": "pos+tok", "value": "pos+tok"}, "paper", {}),
    ({"query": "pos"}, "repo", {}),
    ({"query": "pos", "key": "tok"}, "linear", {"shared": False}),
    ({"value": "tok"}, "paper", {"per_head": True}),
    ({"query": "tok", "key": "pos+tok", "value": "pos"}, "repo", {"per_head": True, "shared": False}),
    ({"query": "pos+tok", "value": "pos"}, "paper", {"window": 3, "count": "visible"}),
    ({"query": "pos+tok", "value": "pos"}, "paper", {"window": 3}),
    ({"query": "pos+tok", "value": "pos+tok"}, "paper", {"causal": False, "per_head": True}),
]


@pytest.mark.parametrize("parts, form, options", SELECTIVE)
def test_selective_attention(parts, form, options):
    switches = {"query": None, "key": None, "value": None} | parts
    m = stirred(nn.SelectiveAttention(12, 6, kv_heads=2, position=form, **switches, **options))
    agree(m, lambda m, x: selective(m, x, parts, form), inputs(2, 9, 12))


def test_selective_attention_off_is_plain():
    """No temperature, and alpha -> -inf, are softmax attention; the first row never depends on alpha."""
    x = inputs(1, 8, 12)
    m = stirred(nn.SelectiveAttention(12, 3, query="pos", value="pos"))
    bare = copy.deepcopy(m)
    bare.temperatures.clear()
    q, k, v = (heads(f(x), 3) for f in (m.q, m.k, m.v))
    plain = m.out(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
    close(bare(x), plain)
    close(m(x)[:, 0], plain[:, 0])
    assert (m(x) - plain)[:, 1:].abs().max() > 1e-4
    for t in m.temperatures.values():
        t.alpha.data.fill_(-800.0)
    close(m(x), plain)


def test_selective_temperature_starts_near_one():
    for form in ("paper", "repo", "linear"):
        t = nn.SelectiveTemperature("pos", 8, position=form)(torch.zeros(1, 100, 8), torch.arange(1, 101))
        assert t.shape == (1, 1, 100) and t[0, 0, 0] == 1 and (t >= 1).all() and t.max() < 1.1
    m = nn.SelectiveAttention(512, 8)
    new = sum(p.numel() for p in m.temperatures.parameters())
    assert new / sum(p.numel() for p in m.parameters()) < 0.005


def test_bad_switches_are_named():
    with pytest.raises(ValueError, match="SelectiveAttention: query: got 'all', wanted one of None, 'pos'"):
        nn.SelectiveAttention(12, 3, query="all")
    with pytest.raises(ValueError, match="window: got 4 without causal"):
        nn.SelectiveAttention(12, 3, causal=False, window=4)
    with pytest.raises(ValueError, match="pad the batch"):
        nn.SelectiveAttention(12, 3)(torch.zeros(4, 12), cu_seqlens=offsets((4,)), return_state=True)


# RCMHA


def depthwise(x: Tensor, conv: nn.ShortConv) -> Tensor:
    """x (B, N, C), causal, taps of one head for all."""
    repeat = x.shape[-1] // len(conv.bias)
    y = conv.bias.repeat(repeat).expand_as(x)
    for r, w in enumerate(conv.weight.unbind(1)):
        shift = conv.weight.shape[1] - 1 - r
        y = y + w.repeat(repeat) * F.pad(x, (0, 0, shift, 0))[:, : x.shape[1]]
    return y


def rcmha(m: nn.RCMHA, x: Tensor, memory: Tensor | None = None) -> Tensor:
    n, memory = x.shape[1], x[:, :0] if memory is None else memory.detach()
    z = torch.cat([memory, x], 1)
    q = depthwise(m.q(x), m.q_conv) if m.q_conv_state == "zeros" else depthwise(m.q(z), m.q_conv)[:, -n:]
    q, k, v = heads(q, m.heads), heads(depthwise(m.k(z), m.k_conv), m.kv_heads), heads(
        depthwise(m.v(z), m.v_conv), m.kv_heads)  # fmt: skip
    k, v = repeated(k, m.heads), repeated(v, m.heads)
    d = torch.arange(n)[:, None] + z.shape[1] - n - torch.arange(z.shape[1])[None]
    reach = m.relative_keys.shape[1] // 2
    row = reach + d.clamp(-reach, reach)
    s = (q + m.u[:, None]) @ k.transpose(-1, -2) + torch.einsum("bhid,hijd->bhij", q, m.relative_keys[:, row])
    s = (s + m.relative_bias[:, row]) / q.shape[-1] ** 0.5
    s = s.masked_fill(d < 0, float("-inf")) if m.causal else s
    return m.out(joined(torch.softmax(s, -1) @ v))


@pytest.mark.parametrize("options", [{}, {"kv_heads": 2, "distance": 4}, {"causal": False, "kernel": 2}])
def test_rcmha(options):
    m = stirred(nn.RCMHA(12, 4, **({"distance": 20} | options)))
    agree(m, rcmha, inputs(2, 11, 12))


@pytest.mark.parametrize("q_conv_state", ["carry", "zeros"])
@pytest.mark.parametrize("remembered", [1, 6])
def test_rcmha_memory(q_conv_state, remembered):
    m = stirred(nn.RCMHA(12, 4, distance=9, q_conv_state=q_conv_state))
    agree(m, rcmha, inputs(2, 7, 12), inputs(2, remembered, 12, seed=1), call=lambda m, x, mem: m(x, memory=mem))


def test_rcmha_segments_with_memory_are_decode():
    """With "carry" the segment after its whole past is the long sequence, and goes on by steps."""
    m, x = stirred(nn.RCMHA(12, 4, distance=5)), inputs(1, 10, 12)
    out, state = m(x[:, 4:8], memory=x[:, :4], return_state=True)
    close(out, m(x)[:, 4:8])
    for t in (8, 9):
        out, state = m.step(x[:, t], state)
        close(out, m(x)[:, t])


def test_rcmha_without_its_terms_is_attention():
    m = nn.RCMHA(12, 3, distance=6).double()
    for conv in (m.q_conv, m.k_conv, m.v_conv):
        conv.weight.data.copy_(torch.tensor([0.0, 0.0, 1.0]).expand_as(conv.weight))
        conv.bias.data.zero_()
    x = inputs(2, 9, 12)
    q, k, v = (heads(f(x), 3) for f in (m.q, m.k, m.v))
    close(m(x), m.out(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))))


def test_rcmha_refuses_two_pasts():
    m, x = nn.RCMHA(12, 3, distance=4), torch.zeros(1, 4, 12)
    _, state = m(x, return_state=True)
    with pytest.raises(ValueError, match="RCMHA: memory, cu_seqlens, initial_state: got more than one"):
        m(x, memory=x, initial_state=state)


def test_rcmha_dropout_is_of_training_only():
    m, x = stirred(nn.RCMHA(12, 3, distance=4, dropout_p=0.5)).float(), inputs(1, 9, 12).float()
    assert not torch.equal(m(x), m(x))
    m.eval()
    assert torch.equal(m(x), m(x))


# ReLU and random features


def relu_dense(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, weight: str, power: float) -> Tensor:
    n, m = q.shape[2], k.shape[2]
    see = torch.arange(n)[:, None] + m - n >= torch.arange(m)[None] if causal else torch.ones(n, m, dtype=bool)
    count = see.sum(-1, keepdim=True) if weight == "visible" else torch.full((n, 1), m)
    w = torch.relu(scale * (q @ repeated(k, q.shape[1]).transpose(-1, -2))) * see / count.to(q.dtype) ** power
    return w @ repeated(v, q.shape[1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("weight, power", [("visible", 1.0), ("keys", 1.0), ("visible", 0.5), ("keys", 0.0)])
def test_relu_attention(causal, weight, power):
    q, k, v = inputs(2, 4, 6, 8), inputs(2, 2, 9, 8, seed=1), inputs(2, 2, 9, 5, seed=2)
    got = nn.relu_attention(q, k, v, causal=causal, weight=weight, power=power)
    close(got, relu_dense(q, k, v, causal, 8**-0.5, weight, power))
    close(nn.relu_attention(3 * q, k, v, causal=causal, weight=weight, power=power), 3 * got)


def test_relu_attention_laws():
    q, k, v = inputs(1, 2, 6, 8), inputs(1, 2, 9, 8, seed=1), inputs(1, 2, 9, 5, seed=2)
    whole = nn.relu_attention(q, k, v, power=0.0)
    parts = [nn.relu_attention(q, k[:, :, r], v[:, :, r], power=0.0) for r in (slice(0, 4), slice(4, 9))]
    close(parts[0] + parts[1], whole)
    assert not nn.relu_attention(q.abs(), -k.abs(), v).any()
    assert torch.equal(
        nn.relu_attention(q, k, v), saccade.attention(q, k, v, score="relu", head_gate=q[0, :, 0, 0] * 0 + 1 / 9)
    )


def random_features(m: nn.RandomFeatureAttention, x: Tensor) -> Tensor:
    """sum_h mean_j relu(x_i W_h x_j) V_h x_j, head by head."""
    width = x.shape[-1]
    out, n = 0, x.shape[1]
    for h in range(m.heads):
        w = torch.relu(x @ m.random[:, h * width : (h + 1) * width] @ x.transpose(-1, -2))
        w = w.tril() / torch.arange(1, n + 1).to(x.dtype)[:, None] if m.causal else w / n
        out = out + w @ x @ m.value.weight[:, h * width : (h + 1) * width].T
    return out


@pytest.mark.parametrize("causal", [False, True])
def test_random_features(causal):
    m = stirred(nn.RandomFeatureAttention(6, 5, 4, causal=causal, mean=0.3))
    agree(m, random_features, inputs(2, 9, 6))
    assert [name for name, _ in m.named_parameters()] == ["value.weight"]
    w = nn.RandomFeatureAttention(64, 50, mean=2.0).random.view(64, 50, 64)
    assert (w.mean(1) - 2 * torch.eye(64)).abs().max() < 0.02 and abs(w[0, :, 1].std() * 64 - 1) < 0.4
