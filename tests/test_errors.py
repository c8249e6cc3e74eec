"""Bad input: every argument, wrong in every way it can be. The text names op, argument, what was got and wanted."""

from __future__ import annotations

import re

import pytest
import saccade
import torch
from helpers import qkv, random

NAN, INF = float("nan"), float("inf")
Q, K, V = qkv(B=2, Hq=4, Hk=2, Nq=5, Nk=7, D=8, Dv=6)
PQ, PK, PV = random(9, 4, 8), random(11, 2, 8), random(11, 2, 6)
CQ, CK = (torch.tensor(x, dtype=torch.int32) for x in ([0, 4, 9], [0, 11, 11]))


def offsets(*x: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(x, dtype=dtype)


# argument named in the message; what replaces the good call; what the message says was got; what it says was wanted
DENSE = [
    ("query", dict(q=Q[0, 0]), r"shape \(5, 8\)", r"\(B, Hq, Nq, D\)"),
    ("query", dict(q=Q[None]), r"shape \(1, 2, 4, 5, 8\)", r"\(B, Hq, Nq, D\)"),
    ("query", dict(q=Q[..., :0], k=K[..., :0]), r"shape \(2, 4, 5, 0\)", "D >= 1"),
    ("query", dict(q=Q.int()), "dtype int32", "float32, bfloat16, float16 or float64"),
    ("query", dict(q=Q.bool()), "dtype bool", "float32, bfloat16, float16 or float64"),
    ("query", dict(q=Q[:, :3]), "3 heads", "multiple of the key's 2"),
    ("key", dict(k=K.double()), "dtype float64", "float32"),
    ("key", dict(k=K.half()), "dtype float16", "float32"),
    ("key", dict(k=K[0]), r"shape \(2, 7, 8\)", r"\(2, Hk, Nk, 8\)"),
    ("key", dict(k=K[:1]), r"shape \(1, 2, 7, 8\)", r"\(2, Hk, Nk, 8\).*query \(2, 4, 5, 8\)"),
    ("key", dict(k=K[..., :5]), r"shape \(2, 2, 7, 5\)", r"\(2, Hk, Nk, 8\)"),
    ("query", dict(k=K[:, :0], v=V[:, :0]), "4 heads", "multiple of the key's 0"),
    ("value", dict(v=V.bfloat16()), "dtype bfloat16", "float32"),
    ("value", dict(v=V[0]), r"shape \(2, 7, 6\)", r"\(2, 2, 7, Dv\)"),
    ("value", dict(v=V[:1]), r"shape \(1, 2, 7, 6\)", r"\(2, 2, 7, Dv\).*key \(2, 2, 7, 8\)"),
    ("value", dict(v=V[:, :1]), r"shape \(2, 1, 7, 6\)", r"\(2, 2, 7, Dv\)"),
    ("value", dict(v=V[:, :, :6]), r"shape \(2, 2, 6, 6\)", r"\(2, 2, 7, Dv\)"),
    ("value", dict(v=V[..., :0]), r"shape \(2, 2, 7, 0\)", "Dv >= 1"),
    ("bias", dict(bias=torch.zeros(5, 6)), r"shape \(5, 6\)", r"\(2, 4, 5, 7\)"),
    ("bias", dict(bias=torch.zeros(2, 2, 5, 7)), r"shape \(2, 2, 5, 7\)", r"\(2, 4, 5, 7\)"),
    ("bias", dict(bias=torch.zeros(1, 2, 4, 5, 7)), r"shape \(1, 2, 4, 5, 7\)", r"\(2, 4, 5, 7\)"),
    ("bias", dict(bias=torch.zeros(5, 7).half()), "dtype float16", "float32 or bool"),
    ("bias", dict(bias=torch.zeros(5, 7).double()), "dtype float64", "float32 or bool"),
    ("bias", dict(bias=torch.zeros(5, 7).int()), "dtype int32", "float32 or bool"),
    ("alibi_slopes", dict(alibi_slopes=torch.zeros(3)), r"shape \(3,\)", r"\(4,\)"),
    ("alibi_slopes", dict(alibi_slopes=torch.zeros(1, 4)), r"shape \(1, 4\)", r"\(2, 4\)"),
    ("alibi_slopes", dict(alibi_slopes=torch.tensor(0.5)), r"shape \(\)", r"\(4,\)"),
    ("alibi_slopes", dict(alibi_slopes=torch.zeros(4).int()), "dtype int32", "float32"),
    ("sinks", dict(sinks=torch.zeros(2)), r"shape \(2,\)", r"\(4,\)"),
    ("sinks", dict(sinks=torch.zeros(2, 4)), r"shape \(2, 4\)", r"\(4,\)"),
    ("sinks", dict(sinks=torch.zeros(4).bool()), "dtype bool", "float32"),
    ("temperature", dict(temperature=torch.ones(4)), r"shape \(4,\)", r"\(2, 4, 5\)"),
    ("temperature", dict(temperature=torch.ones(2, 4, 5, 1)), r"shape \(2, 4, 5, 1\)", r"\(2, 4, 5\)"),
    ("temperature", dict(temperature=torch.ones(5).int()), "dtype int32", "float32"),
    ("head_gate", dict(head_gate=torch.ones(5)), r"shape \(5,\)", r"\(4,\)"),
    ("head_gate", dict(head_gate=torch.ones(2, 4, 6)), r"shape \(2, 4, 6\)", r"\(2, 4, 5\)"),
    ("head_gate", dict(head_gate=torch.ones(4).int()), "dtype int32", "float32"),
    ("relative_keys", dict(relative_keys=torch.zeros(4, 6, 8)), r"shape \(4, 6, 8\)", r"\(4 or 1, 2P\+1, 8\)"),
    ("relative_keys", dict(relative_keys=torch.zeros(2, 7, 8)), r"shape \(2, 7, 8\)", r"\(4 or 1, 2P\+1, 8\)"),
    ("relative_keys", dict(relative_keys=torch.zeros(4, 7, 6)), r"shape \(4, 7, 6\)", r"\(4 or 1, 2P\+1, 8\)"),
    ("relative_keys", dict(relative_keys=torch.zeros(7, 8)), r"shape \(7, 8\)", r"\(4 or 1, 2P\+1, 8\)"),
    ("relative_keys", dict(relative_keys=torch.zeros(4, 0, 8)), r"shape \(4, 0, 8\)", r"\(4 or 1, 2P\+1, 8\)"),
    ("relative_keys", dict(relative_keys=torch.zeros(4, 7, 8).half()), "dtype float16", "float32"),
    ("relative_bias", dict(relative_bias=torch.zeros(4, 6)), r"shape \(4, 6\)", r"\(4 or 1, 2P\+1\)"),
    ("relative_bias", dict(relative_bias=torch.zeros(3, 7)), r"shape \(3, 7\)", r"\(4 or 1, 2P\+1\)"),
    ("relative_bias", dict(relative_bias=torch.zeros(7)), r"shape \(7,\)", r"\(4 or 1, 2P\+1\)"),
    ("relative_bias", dict(relative_bias=torch.zeros(4, 7).int()), "dtype int32", "float32"),
    ("relative_bias", dict(relative_keys=torch.zeros(1, 9, 8), relative_bias=torch.zeros(4, 7)), "7 distances", "9"),
    ("scale", dict(scale=NAN), "nan", "finite"),
    ("scale", dict(scale=INF), "inf", "finite"),
    ("scale", dict(scale="1"), "str", "number"),
    ("softcap", dict(softcap=-1.0), "-1", ">= 0"),
    ("softcap", dict(softcap=NAN), "nan", ">= 0"),
    ("softcap", dict(softcap=INF), "inf", "finite"),
    ("softcap", dict(softcap=None), "NoneType", "number"),
    ("dropout_p", dict(dropout_p=-0.1, seed=0), "-0.1", "0 <= dropout_p < 1"),
    ("dropout_p", dict(dropout_p=1.0, seed=0), "1", "0 <= dropout_p < 1"),
    ("dropout_p", dict(dropout_p=NAN, seed=0), "nan", "0 <= dropout_p < 1"),
    ("dropout_p", dict(dropout_p="0.1", seed=0), "str", "number"),
    ("seed", dict(dropout_p=0.1, seed=1.5), "float", "int"),
    ("seed", dict(dropout_p=0.1, seed=2**64), str(2**64), "64 bits"),
    ("seed", dict(dropout_p=0.1, seed=-(2**63) - 1), str(-(2**63) - 1), "64 bits"),
    ("causal", dict(causal="yes"), "str", "bool"),
    ("causal", dict(causal=None), "NoneType", "bool"),
    ("window", dict(window=-2), "-2", ">= -1"),
    ("window", dict(window=(-2, 0)), r"\(-2, 0\)", ">= -1"),
    ("window", dict(window=(0, -5)), r"\(0, -5\)", ">= -1"),
    ("window", dict(window=(1, 2, 3)), r"\(1, 2, 3\)", r"\(left, right\)"),
    ("window", dict(window=1.5), "1.5", "int"),
    ("window", dict(window=(1.5, 2)), r"\(1.5, 2\)", "int"),
    ("window", dict(window="3"), "'3'", "int"),
    ("cu_seqlens_q", dict(cu_seqlens_q=CQ, cu_seqlens_k=CK), r"dense query \(2, 4, 5, 8\)", "none"),
    ("cu_seqlens_k", dict(cu_seqlens_k=CK), r"dense query \(2, 4, 5, 8\)", "none"),
]  # fmt: skip

PACKED = [
    ("cu_seqlens_q", dict(cu_seqlens_q=None), r"packed query \(9, 4, 8\)", "int32"),
    ("cu_seqlens_k", dict(cu_seqlens_k=None), r"packed query \(9, 4, 8\)", "int32"),
    ("cu_seqlens_q", dict(cu_seqlens_q=CQ.long()), "int64", "int32"),
    ("cu_seqlens_k", dict(cu_seqlens_k=CK.float()), "float32", "int32"),
    ("cu_seqlens_q", dict(cu_seqlens_q=CQ[None]), r"shape \(1, 3\)", r"\(B\+1,\)"),
    ("cu_seqlens_q", dict(cu_seqlens_q=CQ[:0]), r"shape \(0,\)", r"\(B\+1,\)"),
    ("cu_seqlens_q", dict(cu_seqlens_q=offsets(1, 4, 9)), "1 as first", "0"),
    ("cu_seqlens_q", dict(cu_seqlens_q=offsets(0, 5, 4)), "4 after 5", "ascending"),
    ("cu_seqlens_q", dict(cu_seqlens_q=offsets(0, 4, 8)), "8 as last", "9"),
    ("cu_seqlens_q", dict(cu_seqlens_q=offsets(0, 4, 10)), "10 as last", "9"),
    ("cu_seqlens_k", dict(cu_seqlens_k=offsets(0, -1, 11)), "-1 after 0", "ascending"),
    ("cu_seqlens_k", dict(cu_seqlens_k=offsets(0, 11)), r"shape \(2,\)", r"\(3,\)"),
    ("cu_seqlens_k", dict(cu_seqlens_k=offsets(0, 5, 12)), "12 as last", "11"),
    ("key", dict(k=PK[None]), r"shape \(1, 11, 2, 8\)", r"\(Tk, Hk, 8\)"),
    ("value", dict(v=PV[:10]), r"shape \(10, 2, 6\)", r"\(11, 2, Dv\)"),
    ("temperature", dict(temperature=torch.ones(4, 9)), r"shape \(4, 9\)", r"\(9, 4\)"),
    ("head_gate", dict(head_gate=torch.ones(9)), r"shape \(9,\)", r"\(4,\)"),
    ("head_gate", dict(head_gate=torch.ones(4, 9)), r"shape \(4, 9\)", r"\(9, 4\)"),
    ("bias", dict(bias=torch.zeros(9, 11)), r"shape \(9, 11\)", r"\(2, 4, 5, 11\)"),
    ("alibi_slopes", dict(alibi_slopes=torch.zeros(3, 4)), r"shape \(3, 4\)", r"\(2, 4\)"),
]  # fmt: skip


def ids(rows: list) -> list[str]:
    return [f"{n}-{row[0]}" for n, row in enumerate(rows)]


def refused(argument: str, got: str, wanted: str, call) -> None:
    """`call` raises with the text "op: argument: got ..., wanted ...; what to do"."""
    name = {"query": "(query|q)", "key": "(key|k)", "value": "(value|v)"}.get(argument, argument)
    with pytest.raises((RuntimeError, TypeError, ValueError)) as e:
        call()
    text = str(e.value)
    form = rf"\b(softmax_attention|attention|attention_backward|sdpa): {name}: got .*{got}.*, wanted .*{wanted}.*; \S"
    assert re.search(form, text), f"{text!r} is not of the form {form!r}"


@pytest.mark.parametrize("argument, change, got, wanted", DENSE, ids=ids(DENSE))
def test_dense(argument, change, got, wanted):
    call = dict(q=Q, k=K, v=V) | change
    refused(
        argument, got, wanted, lambda: saccade.softmax_attention(call.pop("q"), call.pop("k"), call.pop("v"), **call)
    )


@pytest.mark.parametrize("argument, change, got, wanted", PACKED, ids=ids(PACKED))
def test_packed(argument, change, got, wanted):
    call = dict(q=PQ, k=PK, v=PV, cu_seqlens_q=CQ, cu_seqlens_k=CK) | change
    refused(
        argument, got, wanted, lambda: saccade.softmax_attention(call.pop("q"), call.pop("k"), call.pop("v"), **call)
    )


def test_the_good_calls_are_good():
    assert saccade.softmax_attention(Q, K, V).shape == (2, 4, 5, 6)
    assert saccade.softmax_attention(PQ, PK, PV, cu_seqlens_q=CQ, cu_seqlens_k=CK).shape == (9, 4, 6)


@pytest.mark.parametrize("name", ["q", "k", "v", "bias", "alibi_slopes", "sinks", "temperature", "head_gate",
                                  "relative_keys", "relative_bias"])  # fmt: skip
@pytest.mark.parametrize("wrong", [None, [1.0, 2.0], "tensor", 3.0], ids=lambda x: type(x).__name__)
def test_what_is_no_tensor(name, wrong):
    if wrong is None and name not in "qkv":
        return  # absent
    args = dict(q=Q, k=K, v=V) | {name: wrong}
    shown = {"q": "(query|q)"}.get(name, name)
    with pytest.raises((TypeError, RuntimeError), match=rf"{shown}: got (no tensor|{type(wrong).__name__}), wanted"):
        saccade.softmax_attention(args.pop("q"), args.pop("k"), args.pop("v"), **args)


BACKWARD = [
    ("dout", dict(dout=torch.zeros(2, 4, 5, 7)), r"shape \(2, 4, 5, 7\)", r"\(2, 4, 5, 6\)"),
    ("dout", dict(dout=torch.zeros(2, 4, 5, 6).half()), "dtype float16", "float32"),
    ("out", dict(out=torch.zeros(2, 4, 5, 8)), r"shape \(2, 4, 5, 8\)", r"\(2, 4, 5, 6\)"),
    ("out", dict(out=torch.zeros(2, 4, 5, 6).double()), "dtype float64", "float32"),
    ("lse", dict(lse=torch.zeros(2, 5, 4)), r"shape \(2, 5, 4\)", r"\(2, 4, 5\)"),
    ("lse", dict(lse=torch.zeros(2, 4, 5).half()), "dtype float16", "float32"),
    ("dlse", dict(dlse=torch.zeros(2, 4)), r"shape \(2, 4\)", r"\(2, 4, 5\)"),
    ("dlse", dict(dlse=torch.zeros(2, 4, 5).double()), "dtype float64", "float32"),
    ("key", dict(k=K[:1]), r"shape \(1, 2, 7, 8\)", r"\(2, Hk, Nk, 8\)"),
    ("window", dict(window=-3), "-3", ">= -1"),
    ("seed", dict(dropout_p=0.5), "None", "int"),
]  # fmt: skip


@pytest.mark.parametrize("argument, change, got, wanted", BACKWARD, ids=ids(BACKWARD))
def test_backward(argument, change, got, wanted):
    out, lse = saccade.softmax_attention(Q, K, V, return_lse=True)
    call = dict(dout=torch.ones_like(out), q=Q, k=K, v=V, out=out, lse=lse) | change
    positional = [call.pop(n) for n in ("dout", "q", "k", "v", "out", "lse")]
    refused(argument, got, wanted, lambda: saccade.attention_backward(*positional, **call))


def test_unknown_score_map():
    with pytest.raises((RuntimeError, ValueError), match="score: got .*nonsense.*wanted .*softmax"):
        saccade.attention(Q, K, V, score="nonsense")
    with pytest.raises(TypeError, match="score: got int"):
        saccade.attention(Q, K, V, score=1)


def test_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="is_causal"):
        saccade.softmax_attention(Q, K, V, is_causal=True)


SDPA = [
    ("query", dict(query=Q[0, 0, 0]), "1 dim", "N, D"),
    ("attn_mask", dict(attn_mask=torch.ones(5, 7, dtype=torch.bool), is_causal=True), "is_causal", "one"),
    ("key", dict(), "2 heads", "enable_gqa"),
]  # fmt: skip


@pytest.mark.parametrize("argument, change, got, wanted", SDPA, ids=ids(SDPA))
def test_sdpa(argument, change, got, wanted):
    with pytest.raises((RuntimeError, ValueError, TypeError), match=rf"sdpa: {argument}: got .*{got}.*") as e:
        saccade.sdpa(**(dict(query=Q, key=K, value=V) | change))
    assert wanted in str(e.value)


def test_error_leaves_nothing_behind():
    """A refused call is followed by good ones."""
    want = saccade.softmax_attention(Q, K, V)
    with pytest.raises(RuntimeError):
        saccade.softmax_attention(Q, K[:1], V)
    assert torch.equal(saccade.softmax_attention(Q, K, V), want)
