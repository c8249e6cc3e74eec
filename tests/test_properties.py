"""Hypothesis: any shape, strides and mixture of options agrees with the oracle; any packing agrees with the loop."""

from __future__ import annotations

import dataclasses

import cases
import helpers
import saccade
import tolerance
import torch
from conftest import KERNELS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sizes = st.one_of(st.integers(0, 20), st.sampled_from([31, 33, 63, 64, 65, 100, 129]))
dims = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 80, 127, 128, 129, 200, 256]))
windows = st.one_of(st.none(), st.integers(0, 70), st.tuples(st.integers(-1, 70), st.integers(-1, 70)))
everything = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def any_case(draw) -> cases.Case:
    hk = draw(st.integers(1, 3))
    packed = draw(st.booleans())
    lengths = draw(st.lists(st.tuples(sizes, sizes), max_size=4)) if packed else []
    optional = lambda *values: draw(st.one_of(st.none(), st.sampled_from(values)))  # noqa: E731
    biases = ("full", "batch", "head", "query", "keys", "bool", "bool_keys", "neginf")
    return cases.Case(
        name=f"any{draw(st.integers(0, 9))}",
        B=draw(st.integers(0, 3)), Hk=hk, Hq=hk * draw(st.integers(1, 3)), Nq=draw(sizes), Nk=draw(sizes),
        D=draw(dims), Dv=draw(dims), dtype=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        causal=draw(st.booleans()), window=draw(windows),
        scale=draw(st.one_of(st.none(), st.floats(-1, 1))), softcap=draw(st.sampled_from([0.0, 0.0, 1.0, 20.0])),
        bias=optional(*biases), bias_dtype=draw(st.sampled_from(["float32", "same"])), alibi=optional("head", "batch"),
        temperature=optional("full", "head", "query"), sinks=draw(st.booleans()), head_gate=optional("head", "token"),
        dropout_p=draw(st.sampled_from([0.0, 0.0, 0.1, 0.7])), seed=draw(st.integers(0, 2**64 - 1)),
        lengths_q=tuple(q for q, _ in lengths) if packed else None,
        lengths_k=tuple(k for _, k in lengths) if packed else None,
        layout=draw(st.sampled_from(["contiguous", "bnhd", "sliced", "broadcast"])),
        values=draw(st.sampled_from(["normal", "normal", "outliers"])),
    )  # fmt: skip


@everything
@given(case=any_case(), with_lse=st.booleans())
def test_any_case_on_every_kernel(case, with_lse):
    inputs = cases.make(case)
    expected = tolerance.expect(inputs, with_lse)
    for name in KERNELS:
        with saccade.kernels.use(name):
            expected.check(helpers.run(inputs, with_lse), name)


@st.composite
def restrided(draw, t: torch.Tensor) -> torch.Tensor:
    """The values of `t` behind drawn axis orders, gaps and offsets."""
    order = draw(st.permutations(range(t.dim())))
    steps = [draw(st.integers(1, 3)) for _ in order]
    extra = [draw(st.integers(0, 2)) for _ in order]
    axes = list(zip((t.shape[d] for d in order), steps, extra, strict=True))
    big = torch.full([n * s + e for n, s, e in axes], float("nan"), dtype=t.dtype)
    view = big[tuple(slice(e, e + n * s, s) for n, s, e in axes)]
    view = view.permute([order.index(d) for d in range(t.dim())])
    view.copy_(t)
    return view


@everything
@given(data=st.data())
def test_strides_do_not_matter(data):
    """Bitwise equality to the contiguous call, forward and backward, gradients of the outputs included."""
    case = cases.Case(
        "strides", B=2, Hq=4, Hk=2, Nq=data.draw(st.sampled_from([1, 5, 40])), Nk=data.draw(st.sampled_from([3, 70])),
        D=data.draw(st.sampled_from([1, 8, 33, 64])), Dv=data.draw(st.sampled_from([3, 16])), bias="head",
        temperature="full", head_gate="token", dtype=data.draw(st.sampled_from(["float32", "bfloat16"])),
    )  # fmt: skip
    inputs = cases.make(case)
    moved = dataclasses.replace(
        inputs,
        tensors={n: data.draw(restrided(t)) for n, t in inputs.tensors.items()},
        dout=data.draw(restrided(inputs.dout)),
    )
    helpers.same(helpers.run(inputs), helpers.run(moved))


@everything
@given(lengths=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=5), causal=st.booleans(), window=windows)
def test_packing_is_a_loop(lengths, causal, window):
    case = cases.Case(
        "packing", Hq=4, Hk=2, D=24, Dv=17, causal=causal, window=window,
        lengths_q=tuple(q for q, _ in lengths), lengths_k=tuple(k for _, k in lengths),
    )  # fmt: skip
    inputs = cases.make(case)
    out, lse = helpers.forward(inputs)
    q, k, v = inputs.qkv
    at = [0, 0]
    for nq, nk in lengths:
        rows, keys = slice(at[0], at[0] + nq), slice(at[1], at[1] + nk)
        one, one_lse = saccade.softmax_attention(
            *(t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys])),
            causal=causal,
            window=window,
            return_lse=True,
        )
        assert torch.equal(out[rows].transpose(0, 1), one[0]) and torch.equal(lse[rows].T, one_lse[0])
        at = [at[0] + nq, at[1] + nk]
