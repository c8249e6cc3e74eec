"""The attention functions: signatures, defaults and meaning. The arrays they are given choose what computes them."""

from __future__ import annotations

import sys
from numbers import Integral, Real
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from saccade import kernels

Array = TypeVar("Array")
Window = int | tuple[int, int] | None


class Gradients(NamedTuple):
    """What `attention_backward` returns: shape and dtype of each input, None where it was absent or a boolean mask."""

    dq: Any
    dk: Any
    dv: Any
    dbias: Any = None
    dalibi_slopes: Any = None
    dtemperature: Any = None
    dsinks: Any = None
    dhead_gate: Any = None
    dscore_bias: Any = None
    drelative_keys: Any = None
    drelative_bias: Any = None


def softmax_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float = 0.0,
    bias: Array | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    temperature: Array | None = None,
    head_gate: Array | None = None,
    relative_keys: Array | None = None,
    relative_bias: Array | None = None,
    dropout_p: float = 0.0,
    seed: int | None = None,
    cu_seqlens_q: Array | None = None,
    cu_seqlens_k: Array | None = None,
    return_lse: bool = False,
) -> Array | tuple[Array, Array]:
    """Exact softmax attention in tiles: no N x N matrix, forward or backward.

    With p_i = i + Nk - Nq, the query's place on the key axis, d = p_i - j clipped to [-P, P], R and r the relative
    tables and cap(x) = softcap * tanh(x / softcap)::

        s_ij  = cap(temperature_i * scale * (q_i.k_j + q_i.R_hd + r_hd)) + bias_ij - alibi_slope_h * |p_i - j|
        lse_i = ln(sum_j exp(s_ij) + exp(sink_h))
        out_i = head_gate_i * sum_j dropout_ij * exp(s_ij - lse_i) * v_j

    A row that sees no key gives out 0 and lse -inf (the sink's logit where there is a sink), never NaN.

    Args:
        q: (B, Hq, Nq, D), or packed (Tq, Hq, D) with `cu_seqlens_*`. float32, bfloat16, float16, or float64 (reference
            kernel only). Any strides: a transposed (B, N, H, D) costs no copy. A torch tensor, NumPy or JAX array, or
            anything with `__dlpack__`, in CPU memory; all arrays of a call are of one kind.
        k: (B, Hk, Nk, D) or (Tk, Hk, D), dtype of q. Hq is a multiple of Hk; query head h reads h // (Hq // Hk).
        v: (B, Hk, Nk, Dv) or (Tk, Hk, Dv), dtype of q. Dv may differ from D.
        causal: key j is visible iff j <= p_i. Aligned bottom-right: the last query sees every key (`sdpa` has torch's
            top-left).
        window: (left, right) keeps p_i - left <= j <= p_i + right, in tokens; w means (w, w); -1 is unbounded.
            Intersects `causal`.
        scale: factor of q.k; None: D ** -0.5.
        softcap: bound of the scaled score; 0: none.
        bias: broadcastable to (B, Hq, Nq, Nk), also when packed (Nq, Nk then the longest). float32 or q's dtype: added
            to the score, differentiable. bool: True marks a visible pair.
        alibi_slopes: (Hq,) or (B, Hq), score per token of distance. Differentiable and computed in float32 (float64
            with q), as are the next three.
        sinks: (Hq,), a logit per head that takes weight and gives no value.
        temperature: broadcastable to (B, Hq, Nq), packed (Tq, Hq); a factor of the score per query.
        head_gate: (Hq,), or broadcastable to (B, Hq, Nq), packed (Tq, Hq); a factor of the output.
        relative_keys: (Hq, 2P + 1, D), or (1, 2P + 1, D) for all heads, dtype of q: R_hd in row P + d. Keys further
            away than P share the last row on their side, which costs little. Differentiable.
        relative_bias: (Hq, 2P + 1) or (1, 2P + 1), a number per distance, scaled as q.k is; of the same P if both are
            given. Differentiable and computed in float32 (float64 with q).
        dropout_p: probability of dropping a weight, 0 <= p < 1; kept weights grow by 1 / (1 - p). lse has no dropout.
        seed: of the dropout mask, 64 bits; the mask is a pure function of (seed, b, h, i, j). None: drawn from torch's
            default generator; NumPy and JAX share no generator and must pass one.
        cu_seqlens_q, cu_seqlens_k: int32 (B + 1,), offsets of the packed sequences, from 0 to Tq and Tk.
        return_lse: also return lse.

    Returns:
        out: q's shape with Dv as last size, in q's dtype and memory order. With `return_lse` also lse, (B, Hq, Nq) or
        (Tq, Hq), natural logarithm, float32 (float64 with q). Both are differentiable, once. Results do not depend on
        the number of threads.

    Raises:
        RuntimeError: shapes or dtypes do not fit together, or no kernel (or not the forced one) can run: the text says
            what was got, what was wanted and what to do.
        TypeError, ValueError: an argument that is no number, window or array of the right kind.

    Sources: FlashAttention (arXiv:2205.14135), FlashAttention-2 (2307.08691) and Flash-Decoding; GQA (2305.13245);
    ALiBi (2108.12409); soft capping (Gemma 2, 2408.00118); sinks (2309.17453, learned as in gpt-oss, 2508.10925);
    output gate (2505.06708); relative terms (1803.02155, 1901.02860); counter-based dropout (Philox, SC'11).
    """
    backend, tensors, scalars = _arguments(
        "softmax_attention",
        q,
        k,
        v,
        causal=causal,
        window=window,
        scale=scale,
        softcap=softcap,
        bias=bias,
        alibi_slopes=alibi_slopes,
        sinks=sinks,
        temperature=temperature,
        head_gate=head_gate,
        relative_keys=relative_keys,
        relative_bias=relative_bias,
        dropout_p=dropout_p,
        seed=seed,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
    )
    out, lse = backend.attention(tensors, scalars)
    return (out, lse) if return_lse else out


def sigmoid_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    score_bias: float | str | Array = "neg_log_n",
    causal: bool = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float = 0.0,
    bias: Array | None = None,
    alibi_slopes: Array | None = None,
    temperature: Array | None = None,
    head_gate: Array | None = None,
    relative_keys: Array | None = None,
    relative_bias: Array | None = None,
    dropout_p: float = 0.0,
    seed: int | None = None,
    cu_seqlens_q: Array | None = None,
    cu_seqlens_k: Array | None = None,
) -> Array:
    """Sigmoid attention: every visible pair has the weight 1 / (1 + exp(-s_ij - score_bias_h)), on its own.

    With s_ij as in `softmax_attention` (ALiBi here needs, and gets, the full distance)::

        out_i = head_gate_i * sum_j dropout_ij * sigmoid(s_ij + score_bias_h) * v_j

    Nothing is normalised: no lse, no sinks, and nothing is saved for the backward but q, k and v. Outputs over parts of
    the keys add up. Small weights keep their relative accuracy. A row that sees no key gives 0.

    Args:
        score_bias: "neg_log_n", -ln(n) with n the longest Nk of the call, makes the weights of an untrained model sum
            to about 1; a number; or (Hq,), differentiable. Decode with the number that training used.
        All others: as in `softmax_attention`.

    Returns: out, q's shape with Dv as last size, in q's dtype and memory order; differentiable, once.

    Raises: as `softmax_attention`.

    Source: Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention" (arXiv:2409.04431).
    """
    backend, tensors, scalars = _arguments(
        "sigmoid_attention",
        q,
        k,
        v,
        score="sigmoid",
        score_bias=score_bias,
        causal=causal,
        window=window,
        scale=scale,
        softcap=softcap,
        bias=bias,
        alibi_slopes=alibi_slopes,
        temperature=temperature,
        head_gate=head_gate,
        relative_keys=relative_keys,
        relative_bias=relative_bias,
        dropout_p=dropout_p,
        seed=seed,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
    )
    return backend.attention(tensors, scalars)[0]


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    score: str = "softmax",
    score_bias: float | str | Array | None = None,
    causal: bool = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float = 0.0,
    bias: Array | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    temperature: Array | None = None,
    head_gate: Array | None = None,
    relative_keys: Array | None = None,
    relative_bias: Array | None = None,
    dropout_p: float = 0.0,
    seed: int | None = None,
    cu_seqlens_q: Array | None = None,
    cu_seqlens_k: Array | None = None,
    return_lse: bool = False,
) -> Array | tuple[Array, Array]:
    """Attention with the score map named by `score`: "softmax", "sigmoid", "relu", "relu2" or "identity".

    Everything as in `softmax_attention`, but for maps other than softmax the weight of a visible pair is
    f(s_ij + score_bias_h) with f the logistic function, max(x, 0), max(x, 0) ** 2 or x itself: no row sum, so no sinks
    and no lse.

    Args:
        score_bias: a number, "neg_log_n" (-ln of the longest Nk), or (Hq,), differentiable; None: 0. Not with softmax.

    Sources: sigmoid (arXiv:2409.04431); ReLU maps (2309.08586, 2307.11353).
    """
    backend, tensors, scalars = _arguments(
        "attention",
        q,
        k,
        v,
        score=score,
        score_bias=score_bias,
        causal=causal,
        window=window,
        scale=scale,
        softcap=softcap,
        bias=bias,
        alibi_slopes=alibi_slopes,
        sinks=sinks,
        temperature=temperature,
        head_gate=head_gate,
        relative_keys=relative_keys,
        relative_bias=relative_bias,
        dropout_p=dropout_p,
        seed=seed,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
    )
    if return_lse and score != "softmax":
        raise ValueError(f"attention: return_lse: got True with score {score!r}, wanted False; only softmax has an lse")
    out, lse = backend.attention(tensors, scalars)
    return (out, lse) if return_lse else out


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array | None,
    lse: Array | None,
    *,
    dlse: Array | None = None,
    score: str = "softmax",
    score_bias: float | str | Array | None = None,
    causal: bool = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float = 0.0,
    bias: Array | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    temperature: Array | None = None,
    head_gate: Array | None = None,
    relative_keys: Array | None = None,
    relative_bias: Array | None = None,
    dropout_p: float = 0.0,
    seed: int | None = None,
    cu_seqlens_q: Array | None = None,
    cu_seqlens_k: Array | None = None,
) -> Gradients:
    """Gradients of `attention` as a plain function, for arrays without autograd; torch tensors have their own.

    Args:
        dout: gradient of out, shape and dtype of out.
        q, k, v, and the options: as the forward had them; with dropout its `seed` is required.
        out, lse: what the forward returned; None with a score map other than softmax.
        dlse: gradient of lse, shape and dtype of lse; None: zero.

    Raises: as `softmax_attention`.
    """
    backend, tensors, scalars = _arguments(
        "attention_backward",
        q,
        k,
        v,
        score=score,
        score_bias=score_bias,
        causal=causal,
        window=window,
        scale=scale,
        softcap=softcap,
        bias=bias,
        alibi_slopes=alibi_slopes,
        sinks=sinks,
        temperature=temperature,
        head_gate=head_gate,
        relative_keys=relative_keys,
        relative_bias=relative_bias,
        dropout_p=dropout_p,
        seed=seed,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        draws=False,
    )
    return Gradients(*backend.attention_backward(dout, dlse, out, lse, tensors, scalars))


def sdpa(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """`torch.nn.functional.scaled_dot_product_attention` with its own signature and conventions, on torch tensors.

    Shapes (..., [H,] N, D), leading sizes broadcast. `is_causal` is torch's top-left mask: key j is visible to query i
    iff j <= i, also when the lengths differ (`softmax_attention` aligns bottom-right). `attn_mask` is boolean (True:
    visible) or added to the scores, broadcasts to (..., H, Nq, Nk), and cannot be combined with `is_causal`. A row that
    its mask hides completely gives 0. Under dropout the generator state gives another mask than torch's.

    Raises: as `softmax_attention`; RuntimeError for a mask with `is_causal`, as torch does.
    """
    backend = _backend(query)
    if backend.__name__ != "saccade._torch":
        raise TypeError(f"sdpa: query: got {type(query).__name__}, wanted a torch.Tensor; use softmax_attention")
    return backend.sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def _backend(q: Any) -> ModuleType:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(q, torch.Tensor):
        from saccade import _torch

        return _torch
    from saccade import _arrays

    return _arrays


def _arguments(
    fn: str,
    q: Any,
    k: Any,
    v: Any,
    *,
    score: str = "softmax",
    score_bias: Any = None,
    causal: bool = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float = 0.0,
    bias: Any = None,
    alibi_slopes: Any = None,
    sinks: Any = None,
    temperature: Any = None,
    head_gate: Any = None,
    relative_keys: Any = None,
    relative_bias: Any = None,
    dropout_p: float = 0.0,
    seed: int | None = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    draws: bool = True,
) -> tuple[ModuleType, tuple, tuple]:
    """The backend, and the tensors and scalars in the order of the torch schema (csrc/bindings/torch/library.cpp)."""
    backend = _backend(q)
    score_bias, score_biases = _score_bias(fn, score_bias)
    tensors = backend.prepare(
        fn,
        (
            *(q, k, v, bias, alibi_slopes, temperature, sinks, head_gate, score_biases),
            *(relative_keys, relative_bias, cu_seqlens_q, cu_seqlens_k),
        ),
    )
    if not isinstance(score, str):
        raise TypeError(f"{fn}: score: got {type(score).__name__}, wanted a name; pass 'softmax'")
    if not isinstance(causal, (bool, int)):
        raise TypeError(f"{fn}: causal: got {type(causal).__name__}, wanted a bool; pass True or False")
    if scale is None:
        shape = getattr(q, "shape", ())
        scale = shape[-1] ** -0.5 if len(shape) and shape[-1] else 1.0  # without channels the core says what is wrong
    else:
        scale = _real(fn, "scale", scale)
    left, right = _window(fn, window)
    softcap, dropout_p = _real(fn, "softcap", softcap), _real(fn, "dropout_p", dropout_p)
    seed = _seed(fn, seed, backend if draws and dropout_p > 0 else None, dropout_p)
    options = (score, scale, softcap, score_bias, bool(causal), left, right, dropout_p, seed, kernels.forced())
    return backend, tensors, options


def _score_bias(fn: str, x: Any) -> tuple[float, Any]:
    """As the schema has it: a number (NaN: -ln of the longest Nk, which the core fills in), and a tensor or None."""
    if x is None or _is(x, Real):
        if x is not None and x != x:
            raise ValueError(f"{fn}: score_bias: got nan, wanted a finite number; 'neg_log_n' is -ln(Nk)")
        return _real(fn, "score_bias", 0.0 if x is None else x), None
    if isinstance(x, str):
        if x != "neg_log_n":
            raise ValueError(f"{fn}: score_bias: got {x!r}, wanted 'neg_log_n', a number or a tensor (Hq,)")
        return float("nan"), None
    return 0.0, x


def _is(x: Any, kind: type) -> bool:
    """Of the number kind `kind`, or the stand-in for one that torch.export and make_fx trace with."""
    return isinstance(x, kind) or type(x).__name__ in ("SymInt", "SymFloat")


def _real(fn: str, name: str, x: Any) -> float:
    if not _is(x, Real):
        raise TypeError(f"{fn}: {name}: got {type(x).__name__}, wanted a number; pass a Python float")
    return float(x) if isinstance(x, Real) else x


def _window(fn: str, window: Any) -> tuple[int, int]:
    if window is None:
        return -1, -1
    sides = (window, window) if _is(window, Integral) else window
    if not isinstance(sides, (tuple, list)) or len(sides) != 2 or not all(_is(side, Integral) for side in sides):
        raise TypeError(f"{fn}: window: got {window!r}, wanted None, an int or (left, right); pass numbers of tokens")
    left, right = (int(side) if isinstance(side, Integral) else side for side in sides)
    if left < -1 or right < -1:
        raise ValueError(f"{fn}: window: got {window!r}, wanted sides >= -1; -1 is unbounded")
    return left, right


def _seed(fn: str, seed: Any, generator: ModuleType | None, dropout_p: float) -> int:
    if seed is None:
        if dropout_p <= 0:
            return 0
        drawn = generator.draw_seed() if generator is not None else None
        if drawn is None:
            raise ValueError(f"{fn}: seed: got None with dropout_p {dropout_p}, wanted an int; pass the mask's seed")
        return drawn
    if not isinstance(seed, Integral):
        raise TypeError(f"{fn}: seed: got {type(seed).__name__}, wanted an int; pass seed=...")
    seed = int(seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{fn}: seed: got {seed}, wanted 64 bits; pass 0 <= seed < 2**64")
    return seed - 2**64 if seed >= 2**63 else seed  # the schema's int is signed
