"""Linear attention: a recurrence with decay instead of a row of weights. Cost and memory are linear in the length."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from numbers import Integral
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from saccade import kernels
from saccade.attention import _is, _real

Array = TypeVar("Array")


class LinearGradients(NamedTuple):
    """What `linear_attention_backward` returns: shape and dtype of each input, None where it was absent."""

    dq: Any
    dk: Any
    dv: Any
    dlog_decay: Any = None
    dinitial_state: Any = None


def linear_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    log_decay: Array | Sequence[float] | None = None,
    scale: float = 1.0,
    normalize: bool = False,
    epsilon: float = 1e-6,
    feature: str | None = None,
    causal: bool = True,
    reverse: bool = False,
    initial_state: Array | None = None,
    return_state: bool = False,
    chunk: int | None = None,
    cu_seqlens: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Linear attention with decay, in chunks: no N x N matrix and no state per token, forward or backward.

    ::

        S_t   = diag(exp(g_t)) S_(t-1) + k_t^T v_t          S_(-1) = initial_state, or 0
        out_t = scale * q_t S_t                             the own token counts undecayed

    With `normalize`, out_t = scale * q_t S_t / (scale * q_t.z_t + epsilon), z_t = diag(exp(g_t)) z_(t-1) + k_t.

    Args:
        q: (B, Hq, N, D), or packed (T, Hq, D) with `cu_seqlens`. float32, bfloat16, float16, or float64 (reference
            kernel only). Any strides. A torch tensor, NumPy or JAX array, or anything with `__dlpack__`.
        k: (B, Hk, N, D), dtype of q.
        v: (B, Hv, N, Dv), dtype of q. H, the most of Hq, Hk and Hv, is a multiple of each: head h reads query head
            h // (H // Hq), and so on. Thus keys may be shared by queries, and both by values.
        log_decay: g <= 0, natural logarithm: (H,), also as a list of numbers; (B, H, N), packed (T, H); or per channel
            of the key (B, H, N, D), packed (T, H, D). float32 (float64 with q), differentiable. None: no decay.
        scale: factor of q.k.
        normalize: divide by the sum of the weights. States then have one more column, z.
        epsilon: added to that sum.
        feature: None, or "taylor2": 1 + s + s**2 / 2 with s = scale * q.k takes the place of scale * q.k, and the
            state has 1 + D + D * (D + 1) / 2 rows: 1, every k_m, and every k_m * k_n with m <= n. No decay then.
        causal: False: every query sees all tokens, also later ones (no decay then).
        reverse: time runs backward: token t sees t, t + 1, …; the initial state stands before the last token.
        initial_state: (B, H, D, Dv), with `normalize` (B, H, D, Dv + 1), float32 (float64 with q), as returned by
            another call. Differentiable.
        return_state: also return the state after the last token.
        chunk: tokens handled at once; None: the kernel's choice. Results differ by rounding only.
        cu_seqlens: int32 (B + 1,), offsets of the packed sequences, from 0 to T.

    Returns:
        out: (B, H, N, Dv) or (T, H, Dv) in q's dtype and memory order. With `return_state` also the state, as
        `initial_state`. Both are differentiable, once. Results do not depend on the number of threads.

    Raises: as `softmax_attention`.

    Sources: Katharopoulos et al. (arXiv:2006.16236); Lightning Attention-2 (2401.04658); RetNet (2307.08621); gated
    linear attention (2312.06635); Based, for taylor2 (2402.18668).
    """
    backend, tensors, scalars = _arguments(
        "linear_attention",
        q,
        k,
        v,
        log_decay=log_decay,
        scale=scale,
        normalize=normalize,
        epsilon=epsilon,
        feature=feature,
        causal=causal,
        reverse=reverse,
        initial_state=initial_state,
        chunk=chunk,
        cu_seqlens=cu_seqlens,
    )
    out, state = backend.linear_attention(tensors, scalars, bool(return_state))
    return (out, state) if return_state else out


def lightning_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    slopes: Array | Sequence[float] | None = None,
    scale: float | None = None,
    reverse: bool = False,
    initial_state: Array | None = None,
    return_state: bool = False,
    chunk: int | None = None,
    cu_seqlens: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Lightning attention: `linear_attention` with a constant decay exp(-slope_h) per head.

    Args:
        slopes: (H,), >= 0, differentiable; None: `saccade.linear.alibi_slopes(H)`. Presets of trained models
            (`alibi_layer`, `linear_head`, `retnet`) are log decays: pass them to `linear_attention`.
        scale: factor of q.k; None: D ** -0.5. TransNormerLLM's kernels use 1.
        All others, and what is returned: as in `linear_attention`.

    Source: Qin et al., "Lightning Attention-2" (arXiv:2401.04658).
    """
    shape = getattr(q, "shape", ())
    if slopes is None:
        slopes = alibi_slopes(max([0, *(t.shape[1] for t in (q, k, v) if len(getattr(t, "shape", ())) > 1)]))
    log_decay = [-float(s) for s in slopes] if isinstance(slopes, Sequence) else -slopes
    backend, tensors, scalars = _arguments(
        "lightning_attention",
        q,
        k,
        v,
        log_decay=log_decay,
        scale=(shape[-1] ** -0.5 if len(shape) and shape[-1] else 1.0) if scale is None else scale,
        reverse=reverse,
        initial_state=initial_state,
        chunk=chunk,
        cu_seqlens=cu_seqlens,
    )
    out, state = backend.linear_attention(tensors, scalars, bool(return_state))
    return (out, state) if return_state else out


def linear_attention_step(
    q: Array,
    k: Array,
    v: Array,
    state: Array,
    *,
    log_decay: Array | Sequence[float] | None = None,
    scale: float = 1.0,
    normalize: bool = False,
    epsilon: float = 1e-6,
    feature: str | None = None,
) -> Array:
    """One token of `linear_attention` for every sequence: updates `state` in place and returns the token's output.

    Args:
        q, k, v: (B, Hq, D), (B, Hk, D), (B, Hv, Dv).
        state: as `linear_attention` returns it; read and written. A torch tensor or a writable NumPy array.
        log_decay: (H,), (B, H) or (B, H, D).
        All others: as in `linear_attention`.

    Returns: out (B, H, Dv) in q's dtype. Not differentiable: under autograd use `linear_attention` and its states.
    """
    backend = _backend(q)
    tensors = backend.prepare("linear_attention_step", (q, k, v, log_decay, state), True)
    scalars = _scalars("linear_attention_step", scale, normalize, epsilon, feature)
    return backend.linear_attention_step(tensors, (*scalars, kernels.forced()))


def linear_attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array | None = None,
    *,
    dfinal_state: Array | None = None,
    log_decay: Array | Sequence[float] | None = None,
    scale: float = 1.0,
    normalize: bool = False,
    epsilon: float = 1e-6,
    feature: str | None = None,
    causal: bool = True,
    reverse: bool = False,
    initial_state: Array | None = None,
    chunk: int | None = None,
    cu_seqlens: Array | None = None,
) -> LinearGradients:
    """Gradients of `linear_attention` as a plain function, for arrays without autograd; torch tensors have their own.

    Args:
        dout: gradient of out, shape and dtype of out.
        q, k, v, and the options: as the forward had them.
        out: what the forward returned; needed with `normalize` only.
        dfinal_state: gradient of the returned state; None: zero.
    """
    backend, tensors, scalars = _arguments(
        "linear_attention_backward",
        q,
        k,
        v,
        log_decay=log_decay,
        scale=scale,
        normalize=normalize,
        epsilon=epsilon,
        feature=feature,
        causal=causal,
        reverse=reverse,
        initial_state=initial_state,
        chunk=chunk,
        cu_seqlens=cu_seqlens,
    )
    return LinearGradients(*backend.linear_attention_backward(dout, dfinal_state, out, tensors, scalars))


def alibi_slopes(heads: int) -> list[float]:
    """(H,), > 0: 2 ** (-8 * (h + 1) / H) for a power of two; else those of the power of two below H, then every other
    one of the next. Source: ALiBi (arXiv:2108.12409)."""
    if heads < 1:
        return []
    below = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (h + 1) / below) for h in range(below)]
    return slopes + [2.0 ** (-4 * (h + 1) / below) for h in range(0, 2 * below, 2)][: heads - below]


def alibi_layer(heads: int, layer: int, layers: int) -> list[float]:
    """Log decays (H,) of TransNormerLLM's code: ALiBi slopes that shrink with depth. `layer` counts from 0."""
    _depth("alibi_layer", layer, layers)
    return [-slope * (1 - layer / max(layers - 1, 1) + 1e-5) for slope in alibi_slopes(heads)]


def linear_head(heads: int, layer: int, layers: int) -> list[float]:
    """Log decays (H,) of the lightning layers of flash-linear-attention: -(8 h / H)(1 - layer / layers)."""
    _depth("linear_head", layer, layers)
    return [-(8 * h / heads) * (1 - layer / layers) for h in range(heads)]


def retnet(heads: int) -> list[float]:
    """Log decays (H,) of RetNet (arXiv:2307.08621): ln(1 - 2 ** (-5 - h)), in every layer."""
    return [math.log1p(-(2.0 ** (-5 - h))) for h in range(heads)]


def _depth(fn: str, layer: int, layers: int) -> None:
    if not 0 <= layer < layers:
        raise ValueError(f"{fn}: layer: got {layer} of {layers}, wanted 0 <= layer < layers; count from 0")


def _backend(q: Any) -> ModuleType:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(q, torch.Tensor):
        from saccade import _torch_linear

        return _torch_linear
    from saccade import _arrays_linear

    return _arrays_linear


def _scalars(fn: str, scale: Any, normalize: Any, epsilon: Any, feature: Any) -> tuple:
    _flag(fn, "normalize", normalize)
    if feature is not None and not isinstance(feature, str):
        raise TypeError(f"{fn}: feature: got {type(feature).__name__}, wanted None or 'taylor2'; pass a name")
    return _real(fn, "scale", scale), bool(normalize), _real(fn, "epsilon", epsilon), feature or "none"


def _flag(fn: str, name: str, x: Any) -> None:
    if not isinstance(x, (bool, int)):
        raise TypeError(f"{fn}: {name}: got {type(x).__name__}, wanted a bool; pass True or False")


def _arguments(
    fn: str,
    q: Any,
    k: Any,
    v: Any,
    *,
    log_decay: Any = None,
    scale: float = 1.0,
    normalize: bool = False,
    epsilon: float = 1e-6,
    feature: str | None = None,
    causal: bool = True,
    reverse: bool = False,
    initial_state: Any = None,
    chunk: int | None = None,
    cu_seqlens: Any = None,
) -> tuple[ModuleType, tuple, tuple]:
    """The backend, and the tensors and scalars in the order of the torch schema (csrc/bindings/torch/library.cpp)."""
    backend = _backend(q)
    tensors = backend.prepare(fn, (q, k, v, log_decay, initial_state, cu_seqlens), False)
    scalars = _scalars(fn, scale, normalize, epsilon, feature)
    _flag(fn, "causal", causal)
    _flag(fn, "reverse", reverse)
    if chunk is not None and not _is(chunk, Integral):
        raise TypeError(f"{fn}: chunk: got {type(chunk).__name__}, wanted None or a number of tokens")
    if isinstance(chunk, Integral) and chunk < 1:
        raise ValueError(f"{fn}: chunk: got {chunk}, wanted at least 1; None lets the kernel choose")
    return backend, tensors, (*scalars, bool(causal), bool(reverse), 0 if chunk is None else chunk, kernels.forced())


def _explain(op: str, q: Any, k: Any, v: Any, backward: bool, options: dict) -> list[tuple[str, str, bool]]:
    if op == "linear_attention":
        backend, tensors, scalars = _arguments("kernels.explain", q, k, v, **options)
        return backend.explain(tensors, scalars, backward)
    backend = _backend(q)
    state, log_decay = options.pop("state"), options.pop("log_decay", None)
    defaults = {"scale": 1.0, "normalize": False, "epsilon": 1e-6, "feature": None}
    tensors = backend.prepare("kernels.explain", (q, k, v, log_decay, state), True)
    return backend.explain_step(tensors, (*_scalars("kernels.explain", **(defaults | options)), kernels.forced()))
