"""PyTorch citizenship: opcheck, compile, autocast, gradcheck, meta tensors, clear refusals, and torch's own SDPA."""

from __future__ import annotations

import cases
import helpers
import pytest
import saccade._torch  # registers the operators, which the first call does otherwise
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from cases import BY_NAME, Case
from conftest import REFERENCE
from helpers import close, qkv, random

attend = saccade.softmax_attention

OPCHECKED = [
    Case("op-plain", B=2, Hq=4, Hk=2, Nq=9, Nk=12, D=8, Dv=6, causal=True),
    Case("op-bnhd", B=2, Hq=4, Hk=2, Nq=9, Nk=12, D=8, Dv=6, layout="bnhd", dtype="bfloat16"),
    Case("op-all", B=2, Hq=4, Hk=2, Nq=9, Nk=12, D=8, Dv=6, bias="full", alibi="batch", temperature="full", sinks=True,
         head_gate="token", softcap=3.0, window=(5, 2), dropout_p=0.2, seed=4, relative="both", reach=3),
    Case("op-bool", Nq=5, Nk=7, bias="bool", temperature="head", head_gate="head"),
    Case("op-packed", Hq=4, Hk=2, D=8, Dv=6, lengths_q=(3, 0, 5), lengths_k=(4, 2, 5), causal=True, temperature="full"),
    Case("op-empty", Nq=0, Nk=3),
]  # fmt: skip
PARAMETERS = (
    *("bias", "alibi_slopes", "temperature", "sinks", "head_gate", "score_bias"),
    *("relative_keys", "relative_bias"),
)


def op_arguments(inputs: cases.Inputs) -> tuple:
    """The positional arguments of torch.ops.saccade.attention."""
    t, o = inputs.tensors, inputs.options
    left, right = o["window"] if o.get("window") is not None else (-1, -1)
    return (
        *inputs.qkv, *(t.get(n) for n in PARAMETERS), o.get("cu_seqlens_q"), o.get("cu_seqlens_k"), "softmax",
        o.get("scale", inputs.case.D**-0.5), o.get("softcap", 0.0), 0.0, o.get("causal", False), left, right,
        o.get("dropout_p", 0.0), o.get("seed", 0), "",
    )  # fmt: skip


@pytest.mark.parametrize("case", OPCHECKED, ids=str)
def test_opcheck_forward(case):
    torch.library.opcheck(torch.ops.saccade.attention.default, op_arguments(cases.make(case).requiring_grad()))


@pytest.mark.parametrize("case", OPCHECKED, ids=str)
def test_opcheck_backward(case):
    inputs = cases.make(case)
    args = op_arguments(inputs)
    out, lse = torch.ops.saccade.attention(*args)
    needs = [n in inputs.tensors and inputs.tensors[n].is_floating_point() for n in PARAMETERS]
    for dlse in (None, inputs.dlse):
        torch.library.opcheck(
            torch.ops.saccade.attention_backward.default, (torch.ones_like(out), dlse, out, lse, *args, needs)
        )


def _step(q, k, v, gate):
    out, lse = attend(q * 2, k, v, causal=True, head_gate=gate, return_lse=True)
    return out.square().sum() + lse.sum()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_fullgraph(backend, dynamic):
    """No graph break; values and gradients of eager; the first compilation serves later lengths."""
    torch._dynamo.reset()
    compiles = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(_step, fullgraph=True, dynamic=dynamic, backend=compiles)
    graphs = []
    for n in (47, 55, 40) if dynamic else (33, 33):  # one side of the sizes at which inductor specialises
        leaves = [t.requires_grad_() for t in (*qkv(B=2, Hq=4, Hk=2, Nq=n, Nk=n + 3), random(4).exp())]
        want = torch.autograd.grad(_step(*leaves), leaves)
        got = torch.autograd.grad(compiled(*leaves), leaves)
        for a, b in zip(got, want, strict=True):
            close(a, b)
        graphs.append(compiles.frame_count)
    assert graphs[0] > 0 and graphs[-1] == graphs[0], "compiled again for another length"


def test_compile_sees_the_forced_kernel():
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k, v: attend(q, k, v), fullgraph=True, backend="aot_eager")
    q, k, v = qkv(Nq=64, Nk=64, D=64)
    first = compiled(q, k, v)
    with saccade.kernels.use(REFERENCE):
        exact = attend(q, k, v)
        assert torch.equal(compiled(q, k, v), exact)
    assert (
        torch.equal(compiled(q, k, v), first) and torch.equal(first, attend(q, k, v)) and not torch.equal(first, exact)
    )


def test_compile_packed_and_transposed():
    """The fake kernel's strides are those of the real output."""
    torch._dynamo.reset()

    def layer(x, offsets):
        q, k, v = x.unflatten(-1, (3, 4, 8)).unbind(1)
        return attend(q, k, v, cu_seqlens_q=offsets, cu_seqlens_k=offsets, causal=True).flatten(1)

    def dense(x):
        q, k, v = (t.transpose(1, 2) for t in x.unflatten(-1, (3, 4, 8)).unbind(2))
        return attend(q, k, v, causal=True).transpose(1, 2).flatten(2)

    offsets = torch.tensor([0, 4, 10], dtype=torch.int32)
    x = random(10, 96)
    for fn, args in ((layer, (x, offsets)), (dense, (x[None],))):
        compiled = torch.compile(fn, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*args), fn(*args))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_is_a_cast(low):
    leaves = [t.requires_grad_() for t in qkv(Nq=33)]
    bias = random(20 + 13, 33)
    with torch.autocast("cpu", dtype=low):
        out = attend(*leaves, bias=bias)
        assert out.dtype == low
        assert torch.equal(out, attend(*(t.to(low) for t in leaves), bias=bias))
    grads = torch.autograd.grad(out.sum(), leaves)
    assert all(g.dtype == torch.float32 and g.any() for g in grads)


def test_no_grad_and_partial_grad():
    q, k, v = qkv()
    q.requires_grad_()
    with torch.no_grad():
        assert not attend(q, k, v).requires_grad
    with torch.inference_mode():
        assert torch.equal(attend(q, k, v), attend(q.detach(), k, v))
    out = attend(q, k, v)
    assert out.requires_grad
    out.sum().backward()
    assert q.grad is not None and k.grad is None
    assert not attend(*qkv()).requires_grad


def test_gradients_that_are_not_asked_for_change_nothing():
    """Each parameter alone gets the gradient it gets among all."""
    inputs = cases.make(BY_NAME["relative-all-float32"])
    want = helpers.run(inputs)
    for name in inputs.tensors:
        leaf = inputs.tensors[name].detach().requires_grad_()
        tensors = inputs.tensors | {name: leaf}
        q, k, v = (tensors.pop(n) for n in ("query", "key", "value"))
        out, lse = attend(q, k, v, return_lse=True, **tensors, **inputs.options)
        (grad,) = torch.autograd.grad((out, lse), leaf, (inputs.dout, inputs.dlse))
        assert torch.equal(grad, want[f"d{name}"]), name


@pytest.mark.parametrize("lse_only", [False, True])
def test_loss_on_one_output(kernel, lse_only):
    """A loss on out alone, or on lse alone, is the same as zero for the other."""
    inputs = cases.make(BY_NAME["sinks-causal-float32"]).requiring_grad()
    out, lse = helpers.forward(inputs)
    leaves = [t for t in inputs.tensors.values() if t.requires_grad]
    zero, seed = (inputs.dout * 0, inputs.dlse) if lse_only else (inputs.dout, inputs.dlse * 0)
    both = torch.autograd.grad((out, lse), leaves, (zero, seed), retain_graph=True)
    only = torch.autograd.grad(lse if lse_only else out, leaves, seed if lse_only else zero)
    for a, b in zip(only, both, strict=True):
        assert torch.equal(a, b)


GRADCHECKED = [
    Case("gc-plain", dtype="float64", Hq=2, Hk=1, Nq=3, Nk=4, D=3, Dv=2),
    Case("gc-causal-empty", dtype="float64", Hq=2, Hk=2, Nq=5, Nk=3, D=2, Dv=2, causal=True),
    Case("gc-all", dtype="float64", B=2, Hq=2, Hk=1, Nq=3, Nk=4, D=2, Dv=3, causal=True, window=(2, 0), softcap=2.0,
         bias="head", alibi="batch", temperature="full", sinks=True, head_gate="token", dropout_p=0.3, seed=3,
         relative="both", reach=2),
    Case("gc-packed", dtype="float64", Hq=2, Hk=1, D=2, Dv=2, lengths_q=(2, 0, 3), lengths_k=(3, 1, 3), causal=True,
         bias="keys", alibi="head", temperature="head", sinks=True, head_gate="head", relative="both1", reach=1),
]  # fmt: skip


@pytest.mark.parametrize("case", GRADCHECKED, ids=str)
def test_gradcheck(case):
    inputs = cases.make(case).requiring_grad()
    names = [n for n, t in inputs.tensors.items() if t.requires_grad]

    def fn(*leaves):
        tensors = dict(zip(names, leaves, strict=True))
        q, k, v = (tensors.pop(n) for n in ("query", "key", "value"))
        out, lse = attend(q, k, v, return_lse=True, **tensors, **inputs.options)
        return out, lse.masked_fill(lse == float("-inf"), 0.0)

    assert torch.autograd.gradcheck(fn, [inputs.tensors[n] for n in names], fast_mode=False)


def test_parameters_of_another_float_dtype_are_cast_differentiably():
    q, k, v = qkv(dtype=torch.bfloat16)
    sinks = torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True)
    attend(q, k, v, sinks=sinks).sum().backward()
    assert sinks.grad.dtype == torch.bfloat16 and sinks.grad.any()


def test_double_backward_is_refused():
    q, k, v = (t.requires_grad_() for t in qkv())
    (grad,) = torch.autograd.grad(attend(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not supported"):
        grad.sum().backward()


def test_vmap_is_refused():
    q, k, v = (t[None].expand(3, *t.shape) for t in qkv())
    with pytest.raises((RuntimeError, NotImplementedError), match="vmap is not supported"):
        torch.vmap(attend)(q, k, v)


def test_meta_tensors():
    """Shapes, dtypes and strides without data, in no time for sizes that no memory holds."""
    q, k, v = (torch.empty(4, h, 10**6, 128, device="meta", dtype=torch.bfloat16) for h in (32, 8, 8))
    out, lse = attend(q, k, v, causal=True, return_lse=True)
    assert out.device.type == "meta" and out.shape == q.shape and out.dtype == torch.bfloat16
    assert lse.shape == (4, 32, 10**6) and lse.dtype == torch.float32
    bnhd = torch.empty(2, 5, 4, 8, device="meta").transpose(1, 2)
    real = torch.zeros(2, 5, 4, 8).transpose(1, 2)
    assert attend(bnhd, bnhd, bnhd).stride() == attend(real, real, real).stride()


def test_other_devices_and_mixtures_are_refused():
    q, k, v = qkv()
    with pytest.raises((RuntimeError, ValueError), match="meta"):
        attend(q, k.to("meta"), v)


def test_module_trains_under_checkpointing_with_dropout():
    """Recomputation draws the same dropout mask: torch's generator state decides the seed."""
    from torch.utils.checkpoint import checkpoint

    grads = []
    for wrap in (False, True):
        torch.manual_seed(11)
        q, k, v = (t.requires_grad_() for t in qkv())
        fn = lambda q, k, v: attend(q, k, v, dropout_p=0.3)  # noqa: E731
        out = checkpoint(fn, q, k, v, use_reentrant=False) if wrap else fn(q, k, v)
        grads.append(torch.autograd.grad(out.square().sum(), (q, k, v)))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("nq, nk", [(33, 33), (20, 50), (50, 20), (1, 40)])
@pytest.mark.parametrize("mask", [None, "bool", "float", "causal", "rows", "2d"])
@pytest.mark.parametrize("gqa", [False, True])
def test_sdpa_is_torchs(nq, nk, mask, gqa):
    """Same signature, same conventions: top-left causal, True = visible, and the same gradients."""
    q, k, v = (t.requires_grad_() for t in qkv(B=2, Hq=4, Hk=2 if gqa else 4, Nq=nq, Nk=nk, D=24, Dv=20))
    options = {"enable_gqa": gqa, "scale": 0.3}
    if mask == "bool":
        options["attn_mask"] = random(2, 1, nq, nk) > -0.5
    elif mask == "float":
        options["attn_mask"] = random(2, 4, nq, nk)
    elif mask == "2d":
        options["attn_mask"] = random(nq, nk)
    elif mask == "rows":
        options["attn_mask"] = torch.arange(nq)[:, None].expand(nq, nk) % 3 > 0  # whole rows hidden
    elif mask == "causal":
        options["is_causal"] = True
    want, got = F.scaled_dot_product_attention(q, k, v, **options), saccade.sdpa(q, k, v, **options)
    close(got, want.nan_to_num(0.0), 0.5)
    dout = random(*want.shape, seed=9)
    grads = (torch.autograd.grad(out, (q, k, v), dout) for out in (got, want))
    for a, b in zip(*grads, strict=True):
        close(a, b.nan_to_num(0.0))


@pytest.mark.parametrize("shape", [(7, 8), (3, 7, 8), (2, 3, 4, 7, 8), (2, 0, 7, 8)])
def test_sdpa_takes_any_leading_shape(shape):
    q = random(*shape)
    want = F.scaled_dot_product_attention(q, q, q, is_causal=True) if q.numel() else q  # torch 2.10 divides by 0 heads
    close(saccade.sdpa(q, q, q, is_causal=True), want, 0.5)


def test_sdpa_default_scale_and_positional_arguments():
    q, k, v = qkv(Hk=2)
    mask = random(20, 33)
    close(saccade.sdpa(q, k, v, mask, 0.0, False), F.scaled_dot_product_attention(q, k, v, mask, 0.0, False), 0.5)


def test_sdpa_dropout_drops():
    q, k, v = qkv(Hk=2)
    torch.manual_seed(0)
    a, b = saccade.sdpa(q, k, v, dropout_p=0.5), saccade.sdpa(q, k, v)
    assert not torch.equal(a, b) and a.isfinite().all()
