"""Laws that hold whatever the arithmetic: symmetries, limits, and bitwise reproducibility."""

from __future__ import annotations

import dataclasses

import cases
import helpers
import pytest
import saccade
import torch
from cases import BY_NAME, Case, make
from helpers import close, qkv

attend = saccade.softmax_attention


def test_gqa_is_repeated_heads(kernel):
    q, k, v = qkv(B=2, Hq=6, Hk=2)
    close(attend(q, k, v), attend(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)), 0.1)


@pytest.mark.parametrize("nq", [2, 40])
@pytest.mark.parametrize("causal", [False, True])
def test_keys_split_and_merged_by_lse(kernel, nq, causal):
    q, k, v = qkv(Nq=nq, Nk=150, D=24)
    whole, lse = attend(q, k, v, causal=causal, return_lse=True)
    mask = torch.arange(150)[None] <= torch.arange(nq)[:, None] + 150 - nq if causal else torch.ones(nq, 150).bool()
    parts = [
        attend(q, k[:, :, r], v[:, :, r], bias=mask[:, r].reshape(1, 1, nq, -1), return_lse=True)
        for r in (slice(0, 61), slice(61, 62), slice(62, 150))
    ]
    merged = torch.logsumexp(torch.stack([p[1] for p in parts]), 0)
    out = sum(torch.exp(p[1] - merged)[..., None] * p[0] for p in parts)
    close(out, whole, 0.3)
    close(merged, lse, 0.3)


def relative_tables(heads: int, reach: int, d: int) -> dict[str, torch.Tensor]:
    keys, bias = helpers.random(heads, 2 * reach + 1, d, seed=8), helpers.random(heads, 2 * reach + 1, seed=9)
    return {"relative_keys": keys, "relative_bias": bias}


@pytest.mark.parametrize("nq", [3, 40])
def test_relative_tables_of_zeros_change_nothing(kernel, nq):
    """Bitwise: their term is exactly 0."""
    helpers.needs_relative_tables()
    q, k, v = qkv(Nq=nq, Nk=150)
    zeros = {n: 0 * t for n, t in relative_tables(2, 20, 16).items()}
    assert torch.equal(attend(q, k, v, **zeros), attend(q, k, v))


@pytest.mark.parametrize("nq", [3, 40])
def test_relative_term_sees_differences_of_positions_only(kernel, nq):
    """Queries and keys moved together, past keys that nobody sees, keep their outputs."""
    helpers.needs_relative_tables()
    q, k, v = qkv(Nq=nq, Nk=150)
    tables = relative_tables(2, 20, 16)
    more = [torch.cat([helpers.random(1, 1, 77, 16, seed=7), t], 2) for t in (k, v)]
    see = (torch.arange(227) >= 77).reshape(1, 1, 1, 227)
    close(attend(q, *more, bias=see, **tables), attend(q, k, v, **tables), 0.3)


@pytest.mark.parametrize("nq", [3, 40])
def test_relative_bias_is_a_bias(kernel, nq):
    """beta_{p_i - j} as a matrix; alibi is the table -slope * |p_i - j| / scale."""
    helpers.needs_relative_tables()
    q, k, v = qkv(Nq=nq, Nk=150)
    table = helpers.random(2, 81, seed=3)
    d = torch.arange(nq)[:, None] + 150 - nq - torch.arange(150)[None]
    bias = table[:, 40 + d.clamp(-40, 40)][None]
    close(attend(q, k, v, relative_bias=table, scale=0.5), attend(q, k, v, bias=0.5 * bias, scale=0.5), 0.3)
    slopes = torch.tensor([0.5, 0.03])
    table = -slopes[:, None] * (torch.arange(401) - 200).abs() * 4
    close(attend(q, k, v, relative_bias=table), attend(q, k, v, alibi_slopes=slopes), 0.3)


def test_order_of_keys_does_not_matter(kernel):
    q, k, v = qkv(Nk=77)
    p = torch.randperm(77, generator=torch.Generator().manual_seed(0))
    close(attend(q, k[:, :, p], v[:, :, p]), attend(q, k, v), 0.3)


@pytest.mark.parametrize("nq, nk", [(70, 90), (90, 70), (3, 200)])
def test_causal_rows_do_not_depend_on_the_future(kernel, nq, nk):
    """Bitwise: changing keys after p_i leaves rows up to i and their query gradients as they were."""
    inputs = make(Case("future", Hq=4, Hk=2, Nq=nq, Nk=nk, causal=True))
    at = nk - 2  # keys at, at + 1 are seen by the last two queries only
    tensors = {n: t.clone() for n, t in inputs.tensors.items()}
    for n in ("key", "value"):
        tensors[n][:, :, at:] = 50.0
    a, b = helpers.run(inputs), helpers.run(dataclasses.replace(inputs, tensors=tensors))
    for n in ("out", "lse", "dquery"):
        assert torch.equal(a[n][:, :, : nq - 2], b[n][:, :, : nq - 2]), n
        assert not torch.equal(a[n][:, :, nq - 2 :], b[n][:, :, nq - 2 :]), n


@pytest.mark.parametrize("window", [(0, 0), (5, 3), (-1, 2), (20, -1), 7])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("nq, nk", [(50, 70), (90, 70)])
def test_window_is_an_explicit_mask(kernel, window, causal, nq, nk):
    q, k, v = qkv(Nq=nq, Nk=nk)
    d = torch.arange(nk)[None] - (torch.arange(nq)[:, None] + nk - nq)
    left, right = (window, window) if isinstance(window, int) else window
    see = ((d >= -left) | (left < 0)) & ((d <= right) | (right < 0)) & ((d <= 0) | (not causal))
    got, lse = attend(q, k, v, window=window, causal=causal, return_lse=True)
    want, want_lse = attend(q, k, v, bias=see[None, None], return_lse=True)
    close(got, want, 0.3)
    close(lse, want_lse, 0.3)


def test_bool_mask_is_a_bias_of_minus_infinity(kernel):
    q, k, v = qkv(Nq=33, Nk=80)
    see = helpers.random(1, 1, 33, 80, seed=5) > 0
    see[..., 4, :] = False
    got = attend(q, k, v, bias=see, return_lse=True)
    want = attend(q, k, v, bias=torch.zeros(see.shape).masked_fill(~see, float("-inf")), return_lse=True)
    close(got[0], want[0], 0.3)
    close(got[1], want[1], 0.3)
    assert not got[0][..., 4, :].any() and not want[0][..., 4, :].any()


PACKED = Case(
    "packed", Hq=4, Hk=2, D=24, Dv=20, lengths_q=(5, 0, 70, 1, 17), lengths_k=(9, 3, 90, 300, 0), causal=True,
    alibi="head", temperature="full", head_gate="token", sinks=True, window=(60, 0),
)  # fmt: skip


def test_varlen_is_a_loop_over_sequences(kernel):
    """Bitwise, forward and backward: packing changes nothing. Dropout counts sequences, so it is not in this list."""
    inputs = make(PACKED)
    packed = helpers.run(inputs)
    cq, ck = (inputs.options[n].tolist() for n in ("cu_seqlens_q", "cu_seqlens_k"))
    for b in range(len(cq) - 1):
        q, k = slice(cq[b], cq[b + 1]), slice(ck[b], ck[b + 1])
        t = {n: inputs.tensors[n] for n in ("alibi_slopes", "sinks")}
        for n, r in (("query", q), ("key", k), ("value", k), ("temperature", q), ("head_gate", q)):
            t[n] = inputs.tensors[n][r].transpose(0, 1)[None]
        one = helpers.run(cases.Inputs(
            PACKED, t, {"causal": True, "window": (60, 0)},
            inputs.dout[q].transpose(0, 1)[None], inputs.dlse[q].transpose(0, 1)[None],
        ))  # fmt: skip
        for n, r in (
            ("out", q),
            ("lse", q),
            ("dquery", q),
            ("dkey", k),
            ("dvalue", k),
            ("dtemperature", q),
            ("dhead_gate", q),
        ):
            assert torch.equal(packed[n][r].transpose(0, 1)[None], one[n]), (b, n)


@pytest.mark.parametrize("name", ["gqa8x2-float32", "decode3x2049-float32", "all-bfloat16", "decode-all-float16"])
def test_batch_invariance_is_bitwise(kernel, name):
    """A sequence's result does not depend on what else is in the batch. Dropout counts sequences: taken out."""
    case = dataclasses.replace(BY_NAME[name], B=3, dropout_p=0.0)
    inputs = make(case)
    whole = helpers.run(inputs)
    for b in range(3):
        t = {n: x[b : b + 1] if x.dim() > 2 and x.shape[0] == 3 else x for n, x in inputs.tensors.items()}
        one = helpers.run(cases.Inputs(case, t, inputs.options, inputs.dout[b : b + 1], inputs.dlse[b : b + 1]))
        for n in ("out", "lse", "dquery", "dkey", "dvalue"):
            assert torch.equal(whole[n][b : b + 1], one[n]), (b, n)


THREADED = [
    "gqa8x2-float32", "n259-float32", "all-float32", "all-bfloat16", "all-bool-float32", "varlen-all-float32",
    "decode1x3000-float32", "decode16x1500-bfloat16", "decode-all-float32", "decode-varlen-float32",
    "bias-head-float32", "bias-query-float32", "bias-keys-float32", "values-outliers-float16",
]  # fmt: skip


@pytest.mark.parametrize("name", THREADED)
def test_threads_do_not_change_a_bit(kernel, threads, name):
    inputs = make(BY_NAME[name])
    results = []
    for n in (1, 2, 4, 3):
        threads(n)
        results.append(helpers.run(inputs))
    for other in results[1:]:
        helpers.same(results[0], other)


def test_same_call_same_bits(kernel):
    inputs = make(BY_NAME["all-float32"])
    helpers.same(helpers.run(inputs), helpers.run(inputs))


def test_strides_do_not_change_a_bit(kernel):
    """The values decide, not where they lie."""
    inputs = make(Case("strides", B=2, Hq=4, Hk=2, Nq=40, Nk=70, D=33, Dv=24, causal=True))
    want = helpers.run(inputs)
    for layout in ("bnhd", "sliced"):
        t = {n: cases._laid_out(x, layout) for n, x in inputs.tensors.items()}
        helpers.same(want, helpers.run(dataclasses.replace(inputs, tensors=t)))


def test_score_gradients_of_a_row_sum_to_dlse(kernel):
    """sum_j ds_ij = dlse_i without sink: the bias gradient shows ds itself."""
    inputs = make(Case("rows", Hq=4, Hk=2, Nq=40, Nk=70, bias="full", causal=True))
    close(helpers.run(inputs)["dbias"].sum(-1), inputs.dlse, 2)
    close(helpers.run(inputs, with_lse=False)["dbias"].sum(-1), torch.zeros_like(inputs.dlse), 2)


def test_constant_bias_shifts_lse_only(kernel):
    q, k, v = qkv()
    out, lse = attend(q, k, v, return_lse=True)
    shifted, shifted_lse = attend(q, k, v, bias=torch.full((1, 1, 1, 1), 3.0), return_lse=True)
    close(shifted, out, 0.3)
    close(shifted_lse, lse + 3, 0.3)


def test_row_of_minus_infinity(kernel):
    q, k, v = qkv()
    bias = torch.zeros(1, 1, 20, 33)
    bias[..., 7, :] = float("-inf")
    out, lse = attend(q, k, v, bias=bias, return_lse=True)
    assert not out[:, :, 7].any() and (lse[:, :, 7] == float("-inf")).all() and out.isfinite().all()


def test_softcap_limits(kernel):
    """A huge cap changes nothing; a tiny one makes every weight equal."""
    q, k, v = qkv()
    close(attend(q, k, v, softcap=1e4), attend(q, k, v))
    close(attend(q, k, v, softcap=1e-6), v.mean(2, keepdim=True).expand(1, 2, 20, 16))


def test_neutral_values_are_neutral(kernel):
    q, k, v = qkv(B=2)
    want = attend(q, k, v)
    for options in (
        {"temperature": torch.ones(2, 2, 20)}, {"head_gate": torch.ones(2)}, {"head_gate": torch.ones(2, 2, 20)},
        {"alibi_slopes": torch.zeros(2)}, {"sinks": torch.full((2,), float("-inf"))}, {"window": (-1, -1)},
        {"bias": torch.zeros(1, 1, 1, 1)}, {"bias": torch.ones(1, 1, 1, 33, dtype=torch.bool)}, {"softcap": 0.0},
        {"scale": 16**-0.5}, {"dropout_p": 0.0, "seed": 3}, {"window": 10**6},
    ):  # fmt: skip
        close(attend(q, k, v, **options), want, 0.1)


def test_temperature_is_a_factor_of_the_query(kernel):
    q, k, v = qkv()
    t = helpers.random(1, 2, 20).exp()
    close(attend(q, k, v, temperature=t), attend(q * t[..., None], k, v), 0.5)


def test_sink_is_a_key_without_value(kernel):
    """A sink logit acts as one more key whose score is the logit and whose value is zero."""
    q, k, v = qkv()
    sinks = torch.tensor([0.7, -1.0])
    one = torch.cat([k, torch.zeros(1, 1, 1, 16)], 2)
    bias = torch.zeros(1, 2, 1, 34)
    bias[0, :, 0, -1] = sinks
    out, lse = attend(q, k, v, sinks=sinks, return_lse=True)
    want, want_lse = attend(q, one, torch.cat([v, torch.zeros(1, 1, 1, 16)], 2), bias=bias, return_lse=True)
    close(out, want, 0.3)
    close(lse, want_lse, 0.3)


def test_one_key_returns_its_value(kernel):
    q, k, v = qkv(Nq=5, Nk=1)
    close(attend(q, k, v), v.expand(1, 2, 5, 16), 0.01)


def test_dropout_mean_seed_and_lse(kernel):
    """The mean over seeds is the plain result; equal seeds give equal bits; lse does not see dropout."""
    q, k, v = qkv(Nq=8, Nk=33)
    want, lse = attend(q, k, v, return_lse=True)
    draws = [attend(q, k, v, dropout_p=0.4, seed=s, return_lse=True) for s in range(200)]
    assert all(torch.equal(d[1], lse) for d in draws)
    mean = torch.stack([d[0] for d in draws]).mean(0)
    spread = torch.stack([d[0] for d in draws]).std(0)
    assert ((mean - want).abs() < 6 * spread / 200**0.5 + 1e-6).all() and spread.min() > 0
    assert torch.equal(draws[3][0], attend(q, k, v, dropout_p=0.4, seed=3))


def test_dropout_without_seed_follows_torch(kernel):
    q, k, v = qkv()
    torch.manual_seed(5)
    a, b = attend(q, k, v, dropout_p=0.3), attend(q, k, v, dropout_p=0.3)
    torch.manual_seed(5)
    assert torch.equal(a, attend(q, k, v, dropout_p=0.3)) and not torch.equal(a, b)


def test_out_keeps_the_memory_order_of_the_query(kernel):
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in qkv(B=2, Hq=4, Hk=2, Dv=24))
    out, lse = attend(q, k, v, return_lse=True)
    assert out.transpose(1, 2).is_contiguous() and lse.is_contiguous()
    out, lse = attend(*qkv(B=2), return_lse=True)
    assert out.is_contiguous() and lse.dtype == torch.float32
