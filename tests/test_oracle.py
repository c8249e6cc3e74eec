"""The oracle and the error budget judge everything else; here they are judged by torch and by planted mistakes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
import tolerance
import torch
import torch.nn.functional as F
from cases import BY_NAME, Case, make

F32 = 2**32 - 1


def test_philox_known_answers():
    """Vectors of the Random123 distribution (kat_vectors, philox4x32 10)."""
    table = {
        ((0, 0, 0, 0), (0, 0)): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ((F32,) * 4, (F32, F32)): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)):
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    }  # fmt: skip
    for (counter, key), words in table.items():
        assert tuple(int(w) for w in reference.philox4x32(counter, key)) == words


def test_keep_mask_rate_and_independence():
    keep = reference.keep_mask(7, 0.3, 0, 4, 200, 300)
    assert abs(keep.mean() - 0.7) < 5 * np.sqrt(0.21 / keep.size)
    assert len({keep[h].tobytes() for h in range(4)}) == 4
    assert not np.array_equal(keep, reference.keep_mask(8, 0.3, 0, 4, 200, 300))
    assert not np.array_equal(keep, reference.keep_mask(7 + 2**32, 0.3, 0, 4, 200, 300))
    assert np.array_equal(reference.keep_mask(7, 0.3, 1, 4, 200, 300), reference.keep_mask(7, 0.3, 0, 8, 200, 300)[4:])
    assert np.array_equal(keep[:, :50, :70], reference.keep_mask(7, 0.3, 0, 4, 50, 70))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [None, "full", "bool"])
def test_oracle_is_torch_sdpa_in_float64(causal, bias):
    inputs = make(Case("x", B=2, Hq=4, Hk=2, Nq=21, Nk=21, D=8, Dv=5, bias=bias, causal=causal, dtype="float64"))
    mask = inputs.tensors.get("bias")
    if causal and mask is not None:
        tri = torch.ones(21, 21, dtype=torch.bool).tril()
        mask = mask & tri if mask.dtype == torch.bool else mask.masked_fill(~tri, float("-inf"))

    def torch_forward(t):
        q, k, v = t["query"], t["key"], t["value"]
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal and mask is None, enable_gqa=True)
        return out, out.detach().sum(-1)

    names = ("query", "key", "value")
    leaves = reference.cast(inputs.tensors, torch.float64)
    want = reference.gradients(torch_forward, {n: leaves[n] for n in names}, inputs.dout, None)
    got = reference.gradients(lambda t: reference.attention(t, inputs.options), leaves, inputs.dout, None)
    for name in ("out", "dquery", "dkey", "dvalue"):
        torch.testing.assert_close(got[name], want[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["all-float32", "varlen-all-float32", "sinks-empty-float32", "bias-neginf-float32"])
def test_oracle_gradients_are_those_of_its_values(name):
    """Autograd through the oracle against central differences along a random direction."""
    inputs = make(BY_NAME[name])
    leaves = reference.cast(inputs.tensors, torch.float64)
    grads = reference.gradients(lambda t: reference.attention(t, inputs.options), leaves, inputs.dout, inputs.dlse)

    def loss(t):
        out, lse = reference.attention(t, inputs.options)
        lse = lse.masked_fill(lse.isinf(), 0.0)
        return ((out * inputs.dout.double()).sum() + (lse * inputs.dlse.double()).sum()).item()

    for n, t in leaves.items():
        if not t.requires_grad:
            continue
        step = torch.randn(t.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        plain = {k: x.detach() for k, x in leaves.items()}
        up, down = (loss(plain | {n: plain[n] + sign * 1e-6 * step}) for sign in (1, -1))
        slope = (grads[f"d{n}"] * step).sum().item()
        assert abs((up - down) / 2e-6 - slope) < 1e-6 * (1 + abs(slope)), n


def test_empty_rows_and_zero_keys():
    for name in ("zero-keys-float32", "window-empty-float32", "bias-bool-float32"):
        inputs = make(BY_NAME[name])
        out, lse = reference.attention(inputs.tensors, inputs.options)
        empty = lse == float("-inf")
        assert empty.any() and not out[empty].any() and out.isfinite().all()
    inputs = make(BY_NAME["zero-keys-sinks-float32"])
    out, lse = reference.attention(inputs.tensors, inputs.options)
    assert not out.any() and torch.equal(lse, inputs.tensors["sinks"].double()[None, :, None].expand_as(lse))


def _mistakes(case: Case):
    """(what, results) of float32 evaluations of `case` with one thing wrong."""
    inputs = make(case)

    def run(inputs, dtype=torch.float32):
        return reference.gradients(
            lambda t: reference.over_sequences(tolerance.composition, t, inputs.options),
            reference.cast(inputs.tensors, dtype), inputs.dout, inputs.dlse,
        )  # fmt: skip

    yield "nothing", run(inputs)
    yield "computed in bfloat16", run(inputs, torch.bfloat16)
    d = case.D**-0.5
    yield "scale 1.001 times", run(dataclasses.replace(inputs, options=inputs.options | {"scale": d * 1.001}))
    key = inputs.tensors["key"].clone()
    key[:, :, 3] = 0
    yield "key 3 read as zeros", run(dataclasses.replace(inputs, tensors=inputs.tensors | {"key": key}))
    rounded = {k: t.to(torch.bfloat16).float() for k, t in inputs.tensors.items()}
    yield "operands rounded to bfloat16", run(dataclasses.replace(inputs, tensors=rounded))
    yield "causal though it is not", run(dataclasses.replace(inputs, options=inputs.options | {"window": (-1, 0)}))


@pytest.mark.parametrize(
    "case", [Case("plain", Nq=65, Nk=65, D=40), Case("outlier", Nq=70, Nk=70, D=64, values="outliers")]
)
def test_budget_rejects_mistakes(case):
    expected = tolerance.expect(make(case))
    for what, results in _mistakes(case):
        if what == "nothing":
            expected.check(results)
            continue
        for name in ("out", "lse", "dquery", "dkey", "dvalue"):
            if what == "causal though it is not" or name != "lse":
                with pytest.raises(AssertionError, match=name):
                    expected.check({name: results[name]}, what)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_budget_rejects_mistakes_in_low_precision(dtype):
    """A low-precision result may carry its own rounding and little more."""
    inputs = make(Case("low", Nq=65, Nk=129, D=64, dtype=dtype))
    expected = tolerance.expect(inputs)
    good = {k: x.to(getattr(torch, dtype)) if k != "lse" else x.float() for k, x in expected.results.items()}
    expected.check(good)
    for name in ("out", "dquery", "dkey", "dvalue"):
        with pytest.raises(AssertionError, match=name):
            expected.check({name: good[name].double() * 1.03})
    with pytest.raises(AssertionError, match="lse"):
        expected.check({"lse": good["lse"].to(torch.bfloat16).float()})
