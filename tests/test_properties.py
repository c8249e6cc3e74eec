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
        relative=optional("keys", "bias", "both", "both1"), reach=draw(st.sampled_from([0, 1, 5, 33, 64, 200])),
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
def strides_for(draw, rank: int) -> tuple[list[int], list[int], list[int]]:
    """An order of the axes in memory, and per axis a step and a gap."""
    steps = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    gaps = st.lists(st.integers(0, 2), min_size=rank, max_size=rank)
    return list(draw(st.permutations(range(rank)))), draw(steps), draw(gaps)


def restrided(t: torch.Tensor, how: tuple[list[int], list[int], list[int]]) -> torch.Tensor:
    order, steps, gaps = how
    axes = list(zip((t.shape[d] for d in order), steps, gaps, strict=True))
    big = torch.full([n * s + e for n, s, e in axes], float("nan"), dtype=t.dtype)
    view = big[tuple(slice(e, e + n * s, s) for n, s, e in axes)].permute([order.index(d) for d in range(t.dim())])
    return view.copy_(t)


@everything
@given(
    sizes=st.tuples(*(st.sampled_from(x) for x in ([1, 5, 40], [3, 70], [1, 8, 33, 64], [3, 16]))),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    four=st.lists(strides_for(4), min_size=5, max_size=5),
    three=st.lists(strides_for(3), min_size=3, max_size=3),
)
def test_strides_do_not_matter(sizes, dtype, four, three):
    """Bitwise equality to the contiguous call, forward and backward; under strides of the bias up to rounding."""
    case = cases.Case(
        "strides", B=2, Hq=4, Hk=2, **dict(zip(("Nq", "Nk", "D", "Dv"), sizes, strict=True)), dtype=dtype, bias="head",
        temperature="full", head_gate="token",
    )  # fmt: skip
    inputs = cases.make(case)
    how = dict(zip(("query", "key", "value", "temperature", "head_gate"), four[:3] + three[:2], strict=True))
    moved = dataclasses.replace(
        inputs,
        tensors=inputs.tensors | {n: restrided(inputs.tensors[n], h) for n, h in how.items()},
        dout=restrided(inputs.dout, four[3]),
        dlse=restrided(inputs.dlse, three[2]),
    )
    want = helpers.run(inputs)
    helpers.same(want, helpers.run(moved))
    bias = restrided(inputs.tensors["bias"], four[4])
    got = helpers.run(dataclasses.replace(moved, tensors=moved.tensors | {"bias": bias}))
    tolerance.expect(inputs).check(got)


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
