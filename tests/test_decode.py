"""Few queries over a long cache: the keys are split and merged, and nobody can tell."""

from __future__ import annotations

import cases
import pytest
import saccade
import torch
from helpers import close, qkv, random, same

attend = saccade.softmax_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_by_token_is_prefill(kernel, dtype):
    """A cache read through a growing view of one buffer gives the rows of the causal whole."""
    q, k, v = qkv(B=2, Hq=4, Hk=2, Nq=70, Nk=70, D=32, dtype=dtype)
    whole, lse = attend(q, k, v, causal=True, return_lse=True)
    cache = torch.full((2, 2, 2, 128, 32), float("nan"), dtype=dtype)  # key and value, room for 128
    for t in range(70):
        cache[0, :, :, t], cache[1, :, :, t] = k[:, :, t], v[:, :, t]
        row = slice(t, t + 1)
        out, one = attend(q[:, :, row], cache[0, :, :, : t + 1], cache[1, :, :, : t + 1], causal=True, return_lse=True)
        close(out, whole[:, :, row], 0.5)
        close(one, lse[:, :, row], 0.5)


@pytest.mark.parametrize("nq", range(1, 18))
def test_every_small_number_of_queries(kernel, nq):
    """1..16 queries take the split form, 17 the tiles: the last rows of a longer prefill, all the same."""
    q, k, v = qkv(Hq=4, Hk=1, Nq=40, Nk=1300, D=24)
    whole, lse = attend(q, k, v, causal=True, window=(1000, 0), return_lse=True)
    out, part = attend(q[:, :, -nq:], k, v, causal=True, window=(1000, 0), return_lse=True)
    close(out, whole[:, :, -nq:], 0.5)
    close(part, lse[:, :, -nq:], 0.5)


def test_grouped_heads_share_keys_and_nothing_else(kernel):
    """Each of 8 heads of a group equals the call with that head alone."""
    q, k, v = qkv(Hq=8, Hk=1, Nq=2, Nk=900, D=64)
    whole = attend(q, k, v, causal=True)
    for h in range(8):
        close(attend(q[:, h : h + 1], k, v, causal=True), whole[:, h : h + 1], 0.1)


def test_mixed_batch_of_decode_and_prefill(kernel):
    """A packed batch may mix one-token steps and whole prompts; each sequence is computed as if alone."""
    lengths_q, lengths_k = (1, 100, 1, 16, 0, 17), (800, 100, 1, 500, 9, 700)
    case = cases.Case("mixed", Hq=4, Hk=2, D=32, Dv=32, lengths_q=lengths_q, lengths_k=lengths_k, causal=True)
    inputs = cases.make(case)
    q, k, v = inputs.qkv
    out, lse = attend(q, k, v, return_lse=True, **inputs.kwargs)
    cq, ck = (inputs.options[n].tolist() for n in ("cu_seqlens_q", "cu_seqlens_k"))
    for b in range(6):
        rows, keys = slice(cq[b], cq[b + 1]), slice(ck[b], ck[b + 1])
        alone = attend(*(t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys])), causal=True, return_lse=True)
        same({"out": out[rows].transpose(0, 1)[None], "lse": lse[rows].T[None]}, {"out": alone[0], "lse": alone[1]})


@pytest.mark.parametrize("between", [1, 0])
def test_packed_heads_outlive_their_readers(between):
    """Sequences without tiles (one query) or keys between long ones: no slot of packed keys is taken too early."""
    lengths = [(700, 700)] + [(1, 9) if between else (40, 0)] * 9 + [(20, 700)]
    offsets = [torch.tensor([0, *(n[i] for n in lengths)]).cumsum(0).int() for i in (0, 1)]
    q, k, v = (torch.randn(int(offsets[i][-1]), 1, 32) for i in (0, 1, 1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = attend(q, k, v, cu_seqlens_q=offsets[0], cu_seqlens_k=offsets[1])
        torch.set_num_threads(4)
        for _ in range(50):
            assert torch.equal(attend(q, k, v, cu_seqlens_q=offsets[0], cu_seqlens_k=offsets[1]), alone)
    finally:
        torch.set_num_threads(before)


def test_one_peak_far_away(kernel):
    """The weight sits on one late key, and every split before it held only small scores: the merge rescales."""
    q, k, v = qkv(Hq=2, Hk=2, Nq=1, Nk=2000, D=32)
    for at in (0, 777, 1999):
        sharp = k.clone()
        sharp[:, :, at] = 40 * q[:, :, 0]
        close(attend(q, sharp, v), v[:, :, at : at + 1], 0.5)


def test_splits_that_see_nothing(kernel):
    """Keys before the window, or masked away whole, leave empty splits to merge."""
    q, k, v = qkv(Hq=4, Hk=2, Nq=2, Nk=3000, D=16)
    recent = attend(q, k[:, :, -50:], v[:, :, -50:], causal=True, return_lse=True)
    got = attend(q, k, v, causal=True, bias=(torch.arange(3000) >= 2950).reshape(1, 1, 1, -1), return_lse=True)
    close(got[0], recent[0], 0.3)
    close(got[1], recent[1], 0.3)
    out, lse = attend(q, k, v, bias=torch.zeros(1, 1, 1, 3000, dtype=torch.bool), return_lse=True)
    assert not out.any() and (lse == float("-inf")).all()


def test_long_cache_threads(kernel, threads):
    """More threads than heads, fewer, and one: the same bits."""
    q, k, v = qkv(Hq=2, Hk=1, Nq=1, Nk=5000, D=64)
    results = []
    for n in (1, 2, 3, 4):
        threads(n)
        out, lse = attend(q, k, v, return_lse=True, temperature=random(1, 2, 1).exp())
        results.append({"out": out, "lse": lse})
    for r in results[1:]:
        same(results[0], r)
