"""The oracle: attention in float64 from its formula, with the N x N matrix in the open; autograd gives the gradients.

Nothing here is shared with the library, the dropout generator included.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

MASK32 = np.uint64(0xFFFFFFFF)


def philox4x32(counter: tuple, key: tuple, rounds: int = 10) -> tuple[np.ndarray, ...]:
    """Philox-4x32 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11); words as uint64 < 2^32."""
    c = [np.asarray(x, dtype=np.uint64) for x in counter]
    k0, k1 = (np.uint64(x) for x in key)
    for _ in range(rounds):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        c = [(b >> shift) ^ c[1] ^ k0, b & MASK32, (a >> shift) ^ c[3] ^ k1, a & MASK32]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & MASK32, (k1 + np.uint64(0xBB67AE85)) & MASK32
    return tuple(np.broadcast_arrays(*c))


def keep_mask(seed: int, p: float, batch: int, heads: int, nq: int, nk: int) -> np.ndarray:
    """(heads, nq, nk) bool: which weights survive dropout in sequence `batch`."""
    i = np.arange(nq)[None, :, None]
    j = np.arange(nk)[None, None, :]
    row = batch * heads + np.arange(heads)[:, None, None]
    words = philox4x32(((j // 64) * 16 + j % 16, i, row, 0), (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    word = np.choose((j // 16) % 4, words)
    return word >= min(int(np.floor(p * 2.0**32 + 0.5)), 2**32 - 1)


def window_of(options: dict) -> tuple[int, int]:
    window = options.get("window")
    if window is None:
        return -1, -1
    return (window, window) if isinstance(window, int) else tuple(window)


def distance(nq: int, nk: int) -> Tensor:
    """(nq, nk): key position minus the query's place on the key axis, j - p_i with p_i = i + nk - nq."""
    return torch.arange(nk)[None, :] - (torch.arange(nq)[:, None] + nk - nq)


def visible(nq: int, nk: int, options: dict) -> Tensor:
    """(nq, nk) bool of causal and window."""
    d, (left, right) = distance(nq, nk), window_of(options)
    see = torch.ones(nq, nk, dtype=torch.bool)
    if options.get("causal"):
        see &= d <= 0
    if left >= 0:
        see &= d >= -left
    if right >= 0:
        see &= d <= right
    return see


def repeat_heads(t: Tensor, heads: int) -> Tensor:
    return t.repeat_interleave(heads // t.shape[-3], dim=-3)


def relative_index(nq: int, nk: int, table: Tensor) -> Tensor:
    """(nq, nk): row P + (p_i - j clipped to [-P, P]) of a table (H or 1, 2P + 1, ...)."""
    reach = table.shape[1] // 2
    return reach + (-distance(nq, nk)).clamp(-reach, reach)


def relative(q: Tensor, t: dict[str, Tensor], nk: int) -> Tensor | float:
    """q_i . R_{h, p_i - j} + beta_{h, p_i - j}, (B, Hq, Nq, Nk), every pair's row gathered; 0 without tables."""
    total = 0.0
    if "relative_keys" in t:
        table = t["relative_keys"][:, relative_index(q.shape[2], nk, t["relative_keys"])]
        total = torch.einsum("bhid,hijd->bhij", q, table.expand(q.shape[1], -1, -1, -1))
    if "relative_bias" in t:
        total = total + t["relative_bias"][:, relative_index(q.shape[2], nk, t["relative_bias"])]
    return total


def dense_scores(t: dict[str, Tensor], options: dict) -> Tensor:
    """s (B, Hq, Nq, Nk) in the dtype of the tensors, -inf where invisible."""
    q, k = t["query"], repeat_heads(t["key"], t["query"].shape[1])
    scale = options.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s = (q * scale) @ k.transpose(-1, -2) + scale * relative(q, t, k.shape[2])
    if "temperature" in t:
        s = s * t["temperature"][..., None]
    if cap := options.get("softcap", 0.0):
        s = cap * torch.tanh(s / cap)
    bias = t.get("bias")
    if bias is not None and bias.dtype != torch.bool:
        s = s + bias
    if "alibi_slopes" in t:
        slopes = t["alibi_slopes"]
        s = s - slopes[..., :, None, None] * distance(q.shape[2], k.shape[2]).abs().to(s.dtype)
    see = visible(q.shape[2], k.shape[2], options)
    if bias is not None and bias.dtype == torch.bool:
        see = see & bias
    return s.masked_fill(~see, float("-inf"))


def dropout_factor(t: dict[str, Tensor], options: dict, batch: int) -> Tensor | None:
    """keep / (1 - p), (B, Hq, Nq, Nk) float64; `batch` is the number of the first sequence."""
    p = options.get("dropout_p", 0.0)
    if not p:
        return None
    (b, h, nq, _), nk = t["query"].shape, t["key"].shape[2]
    keep = [torch.from_numpy(keep_mask(options["seed"], p, batch + n, h, nq, nk)) for n in range(b)]
    return torch.stack(keep).double() / (1 - p) if keep else torch.zeros(0, h, nq, nk, dtype=torch.float64)


def biased(s: Tensor, t: dict[str, Tensor], options: dict) -> Tensor:
    """Scores with the bias of maps other than softmax; "neg_log_n" is of `options["longest"]` keys."""
    given = options.get("score_bias", 0.0)
    if given == "neg_log_n":
        given = -math.log(options["longest"]) if options["longest"] else 0.0
    return s + (t["score_bias"][:, None, None] if "score_bias" in t else given)


MAPS = {  # of biased scores, -inf where invisible
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "relu2": lambda s: torch.relu(s) ** 2,
    "identity": lambda s: s.masked_fill(s == float("-inf"), 0.0),
}


def mapped(t: dict[str, Tensor], options: dict, batch: int = 0) -> tuple[Tensor, Tensor]:
    """Attention with one of MAPS, in the dtype of the tensors; in the place of lse zeros that no gradient leaves."""
    w = MAPS[options["score"]](biased(dense_scores(t, options), t, options))
    if (factor := dropout_factor(t, options, batch)) is not None:
        w = w * factor.to(w.dtype)
    out = w @ repeat_heads(t["value"], w.shape[1])
    if "head_gate" in t:
        out = out * t["head_gate"][..., None]
    return out, (t["query"] * 0).sum(-1)


def dense(t: dict[str, Tensor], options: dict, batch: int = 0) -> tuple[Tensor, Tensor]:
    """Dense attention in the dtype of the tensors, by the textbook sum of exponentials."""
    if "score" in options:
        return mapped(t, options, batch)
    s = dense_scores(t, options)
    sinks = t["sinks"][None, :, None, None] if "sinks" in t else torch.tensor(float("-inf"), dtype=s.dtype)
    s = torch.cat([s, sinks.expand(*s.shape[:3], 1)], -1)
    top = s.detach().amax(-1, keepdim=True)
    top = top.masked_fill(top == float("-inf"), 0.0)
    e = torch.exp(s - top)
    total = e.sum(-1, keepdim=True)
    empty = total == 0
    w = e[..., :-1] / total.masked_fill(empty, 1.0)
    lse = (top + torch.log(total.masked_fill(empty, 1.0))).masked_fill(empty, float("-inf"))
    if (factor := dropout_factor(t, options, batch)) is not None:
        w = w * factor
    out = w @ repeat_heads(t["value"], s.shape[1])
    if "head_gate" in t:
        out = out * t["head_gate"][..., None]
    return out, lse[..., 0]


def sequences(t: dict[str, Tensor], options: dict):
    """Yields (dense tensors, first sequence number): the whole if dense, else one sequence after another.

    The dense gate is (..., H, Nq) or (H, 1), the temperature broadcastable to (B, H, Nq).
    """
    t = dict(t)
    options["longest"] = longest_keys(t, options)
    if "cu_seqlens_q" not in options:
        if "head_gate" in t and t["head_gate"].dim() == 1:
            t["head_gate"] = t["head_gate"][:, None]
        yield t, 0
        return
    cq, ck = options["cu_seqlens_q"].tolist(), options["cu_seqlens_k"].tolist()
    tq, heads = t["query"].shape[:2]
    for b in range(len(cq) - 1):
        q, k = slice(cq[b], cq[b + 1]), slice(ck[b], ck[b + 1])
        one = {name: t[name][r].transpose(0, 1)[None] for name, r in (("query", q), ("key", k), ("value", k))}
        for name in ("temperature", "head_gate"):
            if name in t:
                one[name] = t[name].expand(tq, heads)[q].transpose(0, 1)[None]
        if "bias" in t:
            bias = t["bias"].reshape((1,) * (4 - t["bias"].dim()) + t["bias"].shape)
            bias = bias[b : b + 1] if bias.shape[0] > 1 else bias
            bias = bias if bias.shape[2] == 1 else bias[:, :, : q.stop - q.start]
            one["bias"] = bias if bias.shape[3] == 1 else bias[..., : k.stop - k.start]
        if "alibi_slopes" in t:
            one["alibi_slopes"] = t["alibi_slopes"] if t["alibi_slopes"].dim() == 1 else t["alibi_slopes"][b]
        one |= {name: t[name] for name in ("sinks", "score_bias", "relative_keys", "relative_bias") if name in t}
        yield one, b


def longest_keys(t: dict[str, Tensor], options: dict) -> int:
    if "cu_seqlens_k" not in options:
        return t["key"].shape[2]
    return int(options["cu_seqlens_k"].diff().max()) if len(options["cu_seqlens_k"]) > 1 else 0


def over_sequences(dense_fn, t: dict[str, Tensor], options: dict) -> tuple[Tensor, ...]:
    """`dense_fn(tensors, options, batch)` -> tuple of (B, H, N, ...) per sequence, joined in the caller's layout."""
    options = dict(options)
    parts = [dense_fn(one, options, b) for one, b in sequences(t, options)]
    if "cu_seqlens_q" not in options:
        return parts[0]
    if not parts:
        q, v = t["query"], t["value"]
        return q.sum(-1, keepdim=True).expand(-1, -1, v.shape[-1]), q.sum(-1)
    return tuple(torch.cat([p[0].transpose(0, 1) for p in column]) for column in zip(*parts, strict=True))


def cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Detached copies in `dtype` that ask for gradients; bool stays."""
    return {
        k: t.detach().to(dtype).clone().requires_grad_(True) if t.is_floating_point() else t for k, t in tensors.items()
    }


def attention(tensors: dict[str, Tensor], options: dict, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """(out, lse) of dense or packed inputs named as in `cases.Inputs.tensors`; differentiable."""
    return over_sequences(dense, {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}, options)


def gradients(forward, tensors: dict[str, Tensor], dout: Tensor, dlse: Tensor | None) -> dict[str, Tensor]:
    """Outputs "out", "lse" and gradients "d<name>" of `forward(tensors) -> (out, lse)`; rows at -inf send nothing."""
    out, lse = forward(tensors)
    loss = (out * dout.to(out.dtype)).sum()
    if dlse is not None:
        loss = loss + (lse * dlse.to(lse.dtype)).masked_fill(lse == float("-inf"), 0.0).sum()
    wanted = {k: t for k, t in tensors.items() if t.requires_grad}
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    named = {f"d{k}": torch.zeros_like(t) if g is None else g for (k, t), g in zip(wanted.items(), grads, strict=True)}
    return {"out": out.detach(), "lse": lse.detach(), **named}
