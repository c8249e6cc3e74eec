"""What the score maps other than softmax promise beyond the oracle's cases: small weights, and where NaN may go."""

from __future__ import annotations

import dataclasses

import cases
import helpers
import pytest
import saccade
import torch

NAN = float("nan")
MAPS = ("sigmoid", "relu", "relu2", "identity")


@pytest.mark.parametrize("bias", [0.0, -16.0])
@pytest.mark.parametrize("nq", [1, 40])
def test_small_sigmoid_weights_are_accurate(kernel, nq, bias):
    """Weights from 1/2 to 1e-7, read through v = 1 and dv: relative error below 1e-5, whichever way they got small."""
    s = torch.linspace(0, -16.2, 64) - bias
    key, value = (
        s.to(helpers.device()).reshape(1, 1, 64, 1),
        torch.eye(64, device=helpers.device()).reshape(1, 1, 64, 64),
    )
    query = torch.ones(1, 1, nq, 1, device=helpers.device())
    value.requires_grad_()
    out = saccade.sigmoid_attention(query, key, value, scale=1.0, score_bias=bias)
    (dvalue,) = torch.autograd.grad(out, value, torch.ones_like(out))
    want = torch.sigmoid(s.double() + bias)
    for got in (out[0, 0], dvalue[0, 0].T / nq):
        assert ((got.detach().cpu().double() - want) / want).abs().max() < 1e-5


@pytest.mark.parametrize("score", MAPS)
@pytest.mark.parametrize("which", ["query", "key", "value"])
@pytest.mark.parametrize("nq", [9, 70])
def test_poison_reaches_its_pairs_only(kernel, score, which, nq):
    """NaN in one row, causal: in row 40 of the last head's keys or values, or in the query that sits there."""
    case = cases.Case(f"poison-{nq}", score=score, B=2, Hq=4, Hk=2, Nq=nq, Nk=nq + 20, D=24, Dv=20, causal=True)
    at = 5 if nq == 9 else 20  # its place on the key axis is at + 20
    inputs = cases.make(case)
    t = inputs.tensors[which].clone()
    t[(1, 3, at, 5) if which == "query" else (1, 1, at + 20, 5)] = NAN
    clean, got = helpers.run(inputs), helpers.run(dataclasses.replace(inputs, tensors=inputs.tensors | {which: t}))
    rows = torch.zeros(2, 4, nq, 1, dtype=torch.bool)
    keys = torch.zeros(2, 2, nq + 20, 1, dtype=torch.bool)
    if which == "query":
        rows[1, 3, at], keys[1, 1, : at + 21] = True, True
        assert got["out"][1, 3, at].isnan().all() and got["dkey"][1, 1, : at + 21, 5].isnan().all()
    else:
        rows[1, 2:, at:], keys[1, 1] = True, True
    if which == "key":
        assert got["out"][1, 2:, at:].isnan().all() and got["dquery"][1, 2:, at:, 5].isnan().all()
    for name, mask in {"out": rows, "dquery": rows, "dkey": keys, "dvalue": keys}.items():
        mask = mask.expand(got[name].shape)
        assert torch.equal(got[name][~mask], clean[name][~mask]), name
