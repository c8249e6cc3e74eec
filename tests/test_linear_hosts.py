"""Linear attention where it is called from: torch's tools, NumPy, and every malformed call's words."""

from __future__ import annotations

import re

import linear_cases
import numpy as np
import pytest
import saccade
import saccade._torch_linear  # registers the operators, which the first call does otherwise
import torch
from linear_cases import LinearCase

OPCHECKED = [
    LinearCase("op-plain", B=2, Hq=4, Hk=2, Hv=1, N=9, D=8, Dv=6),
    LinearCase("op-state", N=9, D=8, Dv=6, decay="token", state=True, layout="bnhd"),
    LinearCase("op-normalize", Hq=1, N=7, decay="channel", state=True, normalize=True, reverse=True),
    LinearCase("op-packed", lengths=(4, 0, 6), decay="head", state=True, dtype="bfloat16"),
    LinearCase("op-taylor", N=6, D=4, feature="taylor2", normalize=True, causal=False),
    LinearCase("op-empty", N=0, decay="head"),
]


def op_arguments(inputs: linear_cases.LinearInputs) -> tuple:
    """The positional arguments of torch.ops.saccade.linear_attention."""
    t, o = inputs.tensors, inputs.options
    return (
        t["query"], t["key"], t["value"], t.get("log_decay"), t.get("initial_state"), o.get("cu_seqlens"), o["scale"],
        o["normalize"], 1e-6, o["feature"] or "none", o["causal"], o["reverse"], 0, "",
    )  # fmt: skip


def grads_of(inputs: linear_cases.LinearInputs) -> tuple:
    return tuple(
        x.requires_grad_(True) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for x in op_arguments(inputs)
    )


@pytest.mark.parametrize("case", OPCHECKED, ids=str)
def test_opcheck(case):
    inputs = linear_cases.make(case)
    arguments = grads_of(inputs)
    torch.library.opcheck(torch.ops.saccade.linear_attention.default, (*arguments, case.state))
    out, _ = torch.ops.saccade.linear_attention(*arguments, case.state)
    out, arguments = out.detach(), op_arguments(linear_cases.make(case))
    needs = [x is not None for x in arguments[3:5]]
    torch.library.opcheck(
        torch.ops.saccade.linear_attention_backward.default,
        (torch.ones_like(out), inputs.dstate, out, *arguments, needs),
    )


def test_opcheck_step():
    q, k, v, state = torch.randn(2, 4, 8), torch.randn(2, 2, 8), torch.randn(2, 1, 6), torch.randn(2, 4, 8, 6)
    torch.library.opcheck(
        torch.ops.saccade.linear_attention_step.default,
        (q, k, v, -torch.rand(2, 4), state, 1.0, False, 1e-6, "none", ""),
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    def step(q, k, v, g):
        out, state = saccade.linear_attention(q * 2, k, v, log_decay=g, return_state=True)
        return out.square().sum() + state.sum() + saccade.lightning_attention(q, k, v).sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (5, 9, 12):
        leaves = [torch.randn(1, 2, n, 8).requires_grad_(True) for _ in range(3)]
        leaves.append((-torch.rand(1, 2, n)).requires_grad_(True))
        want, got = step(*leaves), compiled(*leaves)
        torch.testing.assert_close(got, want)
        for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
            torch.testing.assert_close(a, b)


def test_gradcheck():
    inputs = linear_cases.make(
        LinearCase("grad", N=4, D=3, Dv=2, Hv=1, decay="channel", state=True, normalize=True, dtype="float64")
    )
    leaves = [x.requires_grad_(True) for x in inputs.tensors.values()]

    def call(q, k, v, g, s):
        return saccade.linear_attention(q, k, v, log_decay=g, initial_state=s, return_state=True, normalize=True)

    assert torch.autograd.gradcheck(call, leaves)


def test_autocast_is_a_cast():
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out, state = saccade.linear_attention(q, k, v, log_decay=[-0.1, -0.2], return_state=True)
    low = [x.bfloat16() for x in (q, k, v)]
    want, end = saccade.linear_attention(*low, log_decay=[-0.1, -0.2], return_state=True)
    assert out.dtype == torch.bfloat16 and torch.equal(out, want) and torch.equal(state, end)


def test_refusals_of_transforms():
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    (g,) = torch.autograd.grad(saccade.linear_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(g.sum(), q)
    with pytest.raises(NotImplementedError, match="vmap"):
        torch.vmap(lambda x: saccade.linear_attention(x, k, v))(q[None])
    with pytest.raises(
        RuntimeError, match=r"linear_attention_step: q: got tensors that require gradients, wanted none"
    ):
        saccade.linear_attention_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], torch.zeros(1, 2, 4, 4))


def test_meta_tensors():
    q, k, v = (torch.empty(2, h, 5, 8, device="meta") for h in (4, 2, 1))
    out, state = saccade.linear_attention(q, k, v, normalize=True, feature="taylor2", return_state=True)
    assert out.shape == (2, 4, 5, 8) and state.shape == (2, 4, 1 + 8 + 36, 9) and state.dtype == torch.float32


@pytest.mark.parametrize("case", [c for c in OPCHECKED if c.dtype != "bfloat16" and c.layout == "contiguous"], ids=str)
def test_numpy_is_torch(case):
    inputs = linear_cases.make(case)
    arrays = {k: x.numpy() for k, x in inputs.tensors.items()}
    options = {k: x.numpy() if isinstance(x, torch.Tensor) else x for k, x in inputs.options.items()}
    q, k, v = (arrays.pop(x) for x in ("query", "key", "value"))
    out, state = saccade.linear_attention(q, k, v, return_state=True, **arrays, **options)
    leaves = {k: x.requires_grad_(True) for k, x in inputs.tensors.items()}
    rest = {k: x for k, x in leaves.items() if k not in ("query", "key", "value")}
    want, end = saccade.linear_attention(
        leaves["query"], leaves["key"], leaves["value"], return_state=True, **rest, **inputs.options
    )
    assert isinstance(out, np.ndarray) and np.array_equal(out, want.detach().numpy())
    assert np.array_equal(state, end.detach().numpy())
    dstate = None if inputs.dstate is None else inputs.dstate.numpy()
    got = saccade.linear_attention_backward(inputs.dout.numpy(), q, k, v, out, dfinal_state=dstate, **arrays, **options)
    seeds = (inputs.dout,) if inputs.dstate is None else (inputs.dout, inputs.dstate)
    grads = torch.autograd.grad((want, end)[: len(seeds)], list(leaves.values()), seeds)
    named = dict(zip(leaves, grads, strict=True))
    for a, b in zip(got, (named.get(x) for x in ("query", "key", "value", "log_decay", "initial_state")), strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b.numpy())


def test_numpy_step_writes_its_state():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 3, 4), dtype=np.float32) for _ in range(3))
    state = np.zeros((2, 3, 4, 4), np.float32)
    saccade.linear_attention_step(q, k, v, state, log_decay=[-0.5] * 3)
    assert np.allclose(state, k[..., None] * v[..., None, :])
    state.flags.writeable = False
    with pytest.raises(TypeError, match="linear_attention_step: state: got ndarray, wanted a writable NumPy array"):
        saccade.linear_attention_step(q, k, v, state)


def test_jax():
    jax = pytest.importorskip("jax")
    q, k, v = (jax.numpy.ones((1, 2, 6, 4), "float32") for _ in range(3))
    out = saccade.linear_attention(q, k, v, log_decay=[0.0, -1.0])
    assert isinstance(out, jax.Array) and np.allclose(np.asarray(out)[0, 0, :, 0], 4 * np.arange(1, 7))


Q, K, V = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 4, 5, 6)
PQ, PK, PV = torch.randn(9, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 4, 6)
CU = torch.tensor([0, 4, 9], dtype=torch.int32)
STATE = torch.zeros(2, 4, 8, 6)

WRONG = [
    ("query", dict(q=Q[0]), r"shape \(4, 5, 8\)", r"\(B, Hq, N, D\)"),
    ("query", dict(q=Q.int()), "dtype int32", "float32"),
    ("key", dict(k=K.double()), "dtype float64", "float32 like query"),
    ("key", dict(k=K[:, :, :4]), r"shape \(2, 2, 4, 8\)", r"\(2, Hk, 5, 8\)"),
    ("key", dict(k=torch.randn(2, 3, 5, 8)), "3 heads", "a divisor of 4"),
    ("value", dict(v=V[:1]), r"shape \(1, 4, 5, 6\)", r"\(2, Hv, 5, Dv\)"),
    ("value", dict(v=V[..., :0]), r"shape \(2, 4, 5, 0\)", "Dv >= 1"),
    ("log_decay", dict(log_decay=torch.zeros(3)), r"shape \(3,\)", r"\(4,\)"),
    ("log_decay", dict(log_decay=[-1.0, -2.0]), r"shape \(2,\)", r"\(4,\)"),
    ("log_decay", dict(log_decay=torch.zeros(2, 4, 6)), r"shape \(2, 4, 6\)", r"\(2, 4, 5\)"),
    ("log_decay", dict(log_decay=torch.zeros(2, 4, 5, 7)), r"shape \(2, 4, 5, 7\)", r"\(2, 4, 5, 8\)"),
    ("log_decay", dict(log_decay=torch.zeros(4, dtype=torch.int32)), "dtype int32", "float32"),
    ("log_decay", dict(log_decay=3.0), "float", "a torch.Tensor"),
    ("initial_state", dict(initial_state=STATE[:1]), r"shape \(1, 4, 8, 6\)", r"\(2, 4, 8, 6\)"),
    ("initial_state", dict(initial_state=STATE, normalize=True), r"shape \(2, 4, 8, 6\)", r"\(2, 4, 8, 7\)"),
    ("initial_state", dict(initial_state=STATE, feature="taylor2"), r"shape \(2, 4, 8, 6\)", r"\(2, 4, 45, 6\)"),
    ("scale", dict(scale=float("nan")), "nan", "a finite number"),
    ("scale", dict(scale="big"), "str", "a number"),
    ("epsilon", dict(normalize=True, epsilon=-1.0), "-1", ">= 0"),
    ("feature", dict(feature="elu"), '"elu"', "none or taylor2"),
    ("feature", dict(feature=3), "int", "None or 'taylor2'"),
    ("feature", dict(feature="taylor2", log_decay=torch.zeros(4)), "taylor2 with log_decay", "one of them"),
    ("global", dict(causal=False, log_decay=torch.zeros(4)), "true with log_decay", "one of them"),
    ("reverse", dict(causal=False, reverse=True), "true with global", "one of them"),
    ("chunk", dict(chunk=0), "0", "at least 1"),
    ("chunk", dict(chunk=2.5), "float", "a number of tokens"),
    ("causal", dict(causal="yes"), "str", "a bool"),
    ("cu_seqlens", dict(q=PQ, k=PK, v=PV, cu_seqlens=CU + 1), "1 as first entry", "0"),
    ("cu_seqlens", dict(q=PQ, k=PK, v=PV, cu_seqlens=CU.long()), "dtype int64", "int32"),
    ("cu_seqlens", dict(q=PQ, k=PK, v=PV, cu_seqlens=CU[:2]), "4 as last entry", "9"),
    ("cu_seqlens", dict(q=PQ, k=PK, v=PV, cu_seqlens=CU.flip(0)), "9 as first entry", "0"),
    ("query", dict(cu_seqlens=CU), r"shape \(2, 4, 5, 8\)", r"\(T, Hq, D\) with cu_seqlens"),
]  # fmt: skip


@pytest.mark.parametrize("argument, change, got, wanted", WRONG, ids=[f"{n}-{row[0]}" for n, row in enumerate(WRONG)])
def test_malformed_calls(argument, change, got, wanted):
    call = dict(q=Q, k=K, v=V) | change
    with pytest.raises((RuntimeError, TypeError, ValueError)) as e:
        saccade.linear_attention(call.pop("q"), call.pop("k"), call.pop("v"), **call)
    form = rf"\blinear_attention: {argument}: got .*{got}.*, wanted .*{wanted}"
    assert re.search(form, str(e.value)), f"{e.value} is not of the form {form!r}"


STEP_WRONG = [
    ("query", dict(q=Q), r"shape \(2, 4, 5, 8\)", r"\(B, Hq, D\)"),
    ("state", dict(state=STATE[:, :2]), r"shape \(2, 2, 8, 6\)", r"\(2, 4, 8, 6\)"),
    ("state", dict(state=STATE.double()), "dtype float64", "float32"),
    ("state", dict(state=torch.zeros(1, 1, 8, 6).expand(2, 4, 8, 6)), "strides", "no two elements share memory"),
    ("state", dict(state=None), "NoneType", "a torch.Tensor"),
    ("log_decay", dict(log_decay=torch.zeros(2, 4, 5)), r"shape \(2, 4, 5\)", r"\(2, 4, 8\)"),
]  # fmt: skip


@pytest.mark.parametrize(
    "argument, change, got, wanted", STEP_WRONG, ids=[f"{n}-{r[0]}" for n, r in enumerate(STEP_WRONG)]
)
def test_malformed_steps(argument, change, got, wanted):
    call = dict(q=Q[:, :, 0], k=K[:, :, 0], v=V[:, :, 0], state=STATE) | change
    with pytest.raises((RuntimeError, TypeError, ValueError)) as e:
        saccade.linear_attention_step(*[call.pop(x) for x in ("q", "k", "v", "state")], **call)
    form = rf"\blinear_attention_step: {argument}: got .*{got}.*, wanted .*{wanted}"
    assert re.search(form, str(e.value)), f"{e.value} is not of the form {form!r}"


def test_good_calls_are_good():
    assert saccade.linear_attention(Q, K, V).shape == (2, 4, 5, 6)
    assert saccade.linear_attention(PQ, PK, PV, cu_seqlens=CU).shape == (9, 4, 6)
    assert saccade.linear_attention_step(Q[:, :, 0], K[:, :, 0], V[:, :, 0], STATE.clone()).shape == (2, 4, 6)


def test_kernels_are_explained():
    rows = saccade.kernels.explain(Q, K, V, op="linear_attention", log_decay=[-1.0] * 4)
    assert rows[-1].name == "cpu.reference.linear" and sum(row.chosen for row in rows) == 1
    wide = torch.randn(1, 1, 2, 30)
    reasons = {
        r.name: r.reason for r in saccade.kernels.explain(wide, wide, wide, op="linear_attention", feature="taylor2")
    }
    assert "features" in reasons["cpu.base.linear"] and reasons["cpu.reference.linear"] == ""
    step = saccade.kernels.explain(Q[:, :, 0], K[:, :, 0], V[:, :, 0], op="linear_attention_step", state=STATE)
    assert [r.chosen for r in step].count(True) == 1
    with pytest.raises(ValueError, match="op: got 'flow'"):
        saccade.kernels.explain(Q, K, V, op="flow")
