"""How far a result may be from the float64 oracle (design.md section 6).

Promise: the error is at most FACTOR times that of the composition an author would otherwise write in the same dtype
(`matmul`, `softmax`, `matmul`, autograd: `composition`), plus rounding noise; largest and mean error separately.
The factor is 2 for outputs and 3 for gradients.

The composition alone is no yardstick: by luck or by cancellation its error is exactly 0 on tiny problems (one key:
w = 1, out = v). The noise term therefore is a first-order bound on what no careful evaluation avoids. With u the unit
roundoff of the accumulator (float32; float64 for float64) and u_x that of the operands:
  * every score carries u * A_ij, A the sum of the magnitudes of its terms, so w_ij carries u * w_ij * r_ij with
    r_ij = 2 + A_ij + sum_j w_ij A_ij; sums carry that times the magnitudes of what they add;
  * a result is rounded to its dtype: u_x * |ref|;
  * backward reads `out` as stored, so D_i = dout_i . out_i carries u_x * |dout_i| . |out_i| into every
    ds_ij = w_ij (dP_ij - D_i).
`noise` evaluates these sums in float64; NOISE multiples of them are granted. `test_oracle.py` shows that the budget
still rejects one missing key, one per mille of scale, and bfloat16 inside a float32 result.

lse is float32 whatever the operands, so it is held to the float32 composition of the operands as given.
"""

from __future__ import annotations

from dataclasses import dataclass

import reference
import torch
from cases import Inputs
from torch import Tensor

FACTOR = {"out": 2.0, "lse": 2.0}
GRADIENT_FACTOR = 3.0
NOISE = 1.0


def composition(t: dict[str, Tensor], options: dict, batch: int = 0) -> tuple[Tensor, Tensor]:
    """Dense attention as a user of plain torch writes it, in the dtype of the tensors; empty rows mended by hand."""
    if "score" in options:
        return reference.mapped(t, options, batch)
    s = reference.dense_scores(t, options)
    if "sinks" in t:
        s = torch.cat([s, t["sinks"][None, :, None, None].expand(*s.shape[:3], 1)], -1)
    empty = (s == float("-inf")).all(-1, keepdim=True)
    s = s.masked_fill(empty, 0.0)
    w = torch.softmax(s, -1).masked_fill(empty, 0.0)[..., : t["key"].shape[2]]
    if (factor := reference.dropout_factor(t, options, batch)) is not None:
        w = w * factor.to(w.dtype)
    out = w @ reference.repeat_heads(t["value"], s.shape[1])
    if "head_gate" in t:
        out = out * t["head_gate"][..., None]
    return out, torch.logsumexp(s, -1).masked_fill(empty[..., 0], float("-inf"))


def _naive(inputs: Inputs, dtype: torch.dtype, with_lse: bool) -> dict[str, Tensor]:
    return reference.gradients(
        lambda t: reference.over_sequences(composition, t, inputs.options),
        reference.cast(inputs.tensors, dtype),
        inputs.dout,
        inputs.dlse if with_lse else None,
    )


def _noise_dense(t: dict[str, Tensor], options: dict, batch: int, u: float, ux: float) -> dict[str, Tensor]:
    """First-order rounding bounds of one dense problem, by result name; all but the parameters' in (B, H, N, ...)."""
    heads, (nq, nk) = t["query"].shape[1], (t["query"].shape[2], t["key"].shape[2])
    group = heads // t["key"].shape[1]
    q, k, v, dout = (t[n].abs() for n in ("query", "key", "value", "dout"))
    k, v = reference.repeat_heads(k, heads), reference.repeat_heads(v, heads)
    scale = options.get("scale")
    c = abs(q.shape[-1] ** -0.5 if scale is None else scale)
    tau = t["temperature"][..., None].abs() if "temperature" in t else torch.ones(1, dtype=q.dtype)
    gate = t["head_gate"][..., None].abs() if "head_gate" in t else torch.ones(1, dtype=q.dtype)
    dlse = t["dlse"][..., None].abs()
    away = reference.distance(nq, nk).abs().to(q.dtype)

    s = reference.dense_scores(t, options)
    sinks = t["sinks"][None, :, None, None] if "sinks" in t else torch.tensor(float("-inf"), dtype=s.dtype)
    ext = torch.cat([s, sinks.expand(*s.shape[:3], 1)], -1)
    empty = (ext == float("-inf")).all(-1, keepdim=True)
    w = torch.softmax(ext.masked_fill(empty, 0.0), -1).masked_fill(empty, 0.0)
    w, w_sink = w[..., :-1], w[..., -1:]
    m = reference.dropout_factor(t, options, batch)
    m = torch.ones_like(w) if m is None else m

    magnitudes = t | {n: t[n].abs() for n in ("relative_keys", "relative_bias") if n in t}
    qk = q @ k.transpose(-1, -2) + reference.relative(q, magnitudes, nk)
    A = tau * c * qk
    if "relative_keys" in t or "relative_bias" in t:  # one more sum of the score's size is rounded
        keys = reference.repeat_heads(t["key"], heads)
        A = A + tau * c * (t["query"] @ keys.transpose(-1, -2) + reference.relative(t["query"], t, nk)).abs()
    if "bias" in t and t["bias"].dtype != torch.bool:
        A = A + t["bias"].abs().masked_fill(t["bias"].isinf(), 0.0)
    if "alibi_slopes" in t:
        A = A + t["alibi_slopes"][..., :, None, None].abs() * away
    if "score" in options:
        return _noise_mapped(t, options, u, ux, s, A, m, gate, c * tau, c * qk, away, (k, v, q, dout), magnitudes)
    mean_A = (w * A).sum(-1, keepdim=True)
    r = 2 + A + mean_A

    dP = gate * m * (dout @ v.transpose(-1, -2))
    out = t["out"].abs()
    D = (dout * out).sum(-1, keepdim=True)
    ds = u * w * (r * (dP + D + dlse) + (w * r * dP).sum(-1, keepdim=True)) + ux * w * D

    def to_keys(x: Tensor) -> Tensor:
        return x.unflatten(1, (heads // group, group)).sum(2)

    dq_relative, tables = _noise_relative(c * tau * ds, q, magnitudes)
    dot = (m * w * (dout @ v.transpose(-1, -2)) * r).sum(-1)
    return {
        "out": u * gate * ((m * w * r) @ v) + ux * out,
        "lse": (u * (2 + mean_A + t["lse"].abs().masked_fill(t["lse"].isinf(), 0.0)[..., None]))[..., 0],
        "dquery": c * tau * (ds @ k) + dq_relative,
        "dkey": to_keys((c * tau * ds).transpose(-1, -2) @ q),
        "dvalue": to_keys(u * (gate * m * w * r).transpose(-1, -2) @ dout),
        "dbias": ds,
        "dalibi_slopes": (ds * away).sum((-1, -2)),
        "dtemperature": (ds * c * qk).sum(-1),
        "dhead_gate": u * dot,
        **tables,
        "dsinks": (w_sink * ((u * (r.amax(-1, keepdim=True) if nk else 2.0) + ux) * (dlse + D)))[..., 0].sum(-1),
    }


def _noise_relative(dx: Tensor, q: Tensor, t: dict[str, Tensor]) -> tuple[Tensor | float, dict[str, Tensor]]:
    """What the bound dx of d(loss)/d(q_i.k_j) puts into dquery through the table, and into the tables' gradients."""
    dq, found = 0.0, {}
    for name in ("relative_keys", "relative_bias"):
        if name not in t:
            continue
        at = reference.relative_index(*dx.shape[-2:], t[name])
        of_row = torch.zeros(*dx.shape[:3], t[name].shape[1], dtype=dx.dtype).scatter_add(-1, at.expand(dx.shape), dx)
        shared = t[name].shape[0] == 1
        if name == "relative_keys":
            dq = torch.einsum("bhie,hed->bhid", of_row, t[name].expand(dx.shape[1], -1, -1))
            grad = torch.einsum("bhie,bhid->hed", of_row, q)
        else:
            grad = of_row.sum((0, 2))
        found[f"d{name}"] = grad.sum(0, keepdim=True) if shared else grad
    return dq, found


def _noise_mapped(t, options, u, ux, s, A, m, gate, factor, qk, away, operands, magnitudes) -> dict[str, Tensor]:
    """The same for a map f of each score: w carries u (2 |w| + |f'| A), ds_ij = f' dP carries u (2 |f'| + |f''| A) dP.

    Where a kink lies within the score's own error, f' is uncertain by all of its jump.
    """
    k, v, q, dout = operands
    heads, group = q.shape[1], q.shape[1] // t["key"].shape[1]
    x = reference.biased(s, t, options)
    A = A + (x - s).nan_to_num(0.0).abs() + 1
    x = x.masked_fill(x == float("-inf"), -1e30)
    seen, near = s != float("-inf"), x.abs() <= 8 * u * A
    w = torch.sigmoid(x)
    f, df, ddf = {
        "sigmoid": (w, w * (1 - w), w * (1 - w)),
        "relu": (x.clamp(min=0), (x > 0).double(), near / u),
        "relu2": (x.clamp(min=0) ** 2, 2 * x.clamp(min=0), 2.0 * ((x > 0) | near)),
        "identity": (x.abs(), torch.ones_like(x), torch.zeros_like(x)),
    }[options["score"]]
    f, df, ddf = (y * seen for y in (f, df, ddf))
    dw = u * (2 * f + df * A)
    vdout = dout @ v.transpose(-1, -2)
    dP = gate * m * vdout
    ds = u * (2 * df + ddf * A) * dP

    def to_keys(y: Tensor) -> Tensor:
        return y.unflatten(1, (heads // group, group)).sum(2)

    dx = factor * (ds + u * df * dP)
    dq_relative, tables = _noise_relative(dx, q, magnitudes)
    return {
        "out": gate * ((m * dw) @ v) + u * gate * ((m * f) @ v) + ux * t["out"].abs(),
        "lse": t["lse"] * 0,
        "dquery": dx @ k + dq_relative,
        "dkey": to_keys(dx.transpose(-1, -2) @ q),
        **tables,
        "dvalue": to_keys((gate * m * (dw + u * f)).transpose(-1, -2) @ dout),
        "dbias": ds,
        "dalibi_slopes": ((ds + u * df * dP) * away).sum((-1, -2)),
        "dtemperature": ((ds + u * df * dP) * qk).sum(-1),
        "dhead_gate": (m * (dw + u * f) * vdout).sum(-1),
        "dscore_bias": (ds + u * df * dP).sum((-1, -2)),
    }


def noise(inputs: Inputs, ref: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """(max, mean) of the rounding bound of every result in `ref`."""
    dtype = inputs.tensors["query"].dtype
    ux = torch.finfo(dtype).eps / 2
    u = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps / 2
    tensors = {k: t.detach().double() if t.is_floating_point() else t for k, t in inputs.tensors.items()}
    sums: dict[str, list[Tensor]] = {}
    rows = {"dout": inputs.dout.double(), "dlse": inputs.dlse.double(), "out": ref["out"], "lse": ref["lse"]}
    cq = inputs.options["cu_seqlens_q"].tolist() if "cu_seqlens_q" in inputs.options else None
    options = dict(inputs.options)
    for one, b in reference.sequences(tensors, options):
        for name, x in rows.items():
            one[name] = x if cq is None else x[cq[b] : cq[b + 1]].transpose(0, 1)[None]
        for name, x in _noise_dense(one, options, b, u, ux).items():
            sums.setdefault(name, []).append(x)
    found = {}
    for name, x in ref.items():
        parts = sums.get(name, [])
        given = inputs.tensors.get(name[1:]) if name not in ("out", "lse") else None
        own = torch.finfo(given.dtype if given is not None else torch.float32 if name == "lse" else dtype)
        own_u = max(own.eps / 2, u) if name == "lse" or given is not None else ux
        total = sum(p.sum().item() for p in parts)
        peak = max((p.max().item() for p in parts if p.numel()), default=0.0)
        if parts and sum(p.numel() for p in parts) > x.numel():  # a broadcast parameter: its gradient adds up the parts
            peak = peak * sum(p.numel() for p in parts) / max(x.numel(), 1)
        finite = x[x.isfinite()].abs()
        rounding = (own_u * finite.max().item(), own_u * finite.mean().item()) if finite.numel() else (0.0, 0.0)
        tiny = own.smallest_normal * own.eps
        found[name] = peak + rounding[0] + tiny, total / max(x.numel(), 1) + rounding[1] + tiny
    return found


@dataclass
class Expected:
    """The oracle's results of one case, and how far from them a kernel may be: name -> (max, mean)."""

    results: dict[str, Tensor]
    budget: dict[str, tuple[float, float]]

    def check(self, got: dict[str, Tensor], what: str = "") -> None:
        """Asserts shape, -inf and NaN in the same places, and the error budget of every result in `got`."""
        wrong = []
        for name, x in got.items():
            ref = self.results[name]
            assert x.shape == ref.shape, f"{what} {name}: shape {tuple(x.shape)}, wanted {tuple(ref.shape)}"
            x = x.detach().cpu().double()
            finite = ref.isfinite()
            assert torch.equal(x[~finite], ref[~finite]), f"{what} {name}: -inf expected where the oracle has it"
            if not finite.any():
                continue
            top, mean = error(x[finite], ref[finite])
            if not (top <= self.budget[name][0] and mean <= self.budget[name][1]):
                wrong.append(f"{name}: max {top:.3g} (may {self.budget[name][0]:.3g}), mean {mean:.3g} "
                             f"(may {self.budget[name][1]:.3g})")  # fmt: skip
        assert not wrong, f"{what}: " + "; ".join(wrong)


def error(x: Tensor, ref: Tensor) -> tuple[float, float]:
    """(max, mean) of |x - ref|; NaN if x has one."""
    e = (x.double() - ref).abs()
    return (e.max().item(), e.mean().item()) if e.numel() else (0.0, 0.0)


def expect(inputs: Inputs, with_lse: bool = True) -> Expected:
    """Runs oracle and composition on the inputs."""
    ref = reference.gradients(
        lambda t: reference.attention(t, inputs.options),
        reference.cast(inputs.tensors, torch.float64),
        inputs.dout,
        inputs.dlse if with_lse else None,
    )
    dtype = inputs.tensors["query"].dtype
    naive = _naive(inputs, dtype, with_lse)
    if dtype not in (torch.float32, torch.float64):
        naive["lse"] = _naive(inputs, torch.float32, with_lse)["lse"]
    floor = noise(inputs, ref)
    budget = {}
    for name, x in ref.items():
        ok = x.isfinite() & naive[name].isfinite()  # float16 overflows in the composition; judge it where it lives
        top, mean = error(naive[name][ok], x[ok])
        factor = FACTOR.get(name, GRADIENT_FACTOR)
        budget[name] = factor * top + NOISE * floor[name][0], factor * mean + NOISE * floor[name][1]
    return Expected(ref, budget)
