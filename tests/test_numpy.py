"""NumPy, and whatever else speaks DLPack: the numbers of torch, from arrays of any layout, without torch."""

from __future__ import annotations

import subprocess
import sys

import cases
import helpers
import numpy as np
import pytest
import saccade
import torch


def arrays(inputs: cases.Inputs) -> tuple[list[np.ndarray], dict]:
    kwargs = {k: t.numpy() if isinstance(t, torch.Tensor) else t for k, t in inputs.kwargs.items()}
    return [t.numpy() for t in inputs.qkv], kwargs


PREFIXES = ("gqa", "all-", "varlen", "zero", "bias-", "gate", "layout", "double", "decode-all", "relative")
NUMPY_CASES = [c for c in cases.select() if c.dtype != "bfloat16" and c.bias_dtype == "float32"]
NUMPY_CASES = [c for c in NUMPY_CASES if c.name.startswith(PREFIXES)]


@pytest.mark.parametrize("case", NUMPY_CASES, ids=str)
def test_numpy_is_torch(case):
    """Bitwise the same results, forward and backward, as arrays of NumPy."""
    inputs = cases.make(case)
    want = helpers.run(inputs)
    qkv, kwargs = arrays(inputs)
    out, lse = saccade.softmax_attention(*qkv, return_lse=True, **kwargs)
    assert isinstance(out, np.ndarray) and isinstance(lse, np.ndarray)
    grads = saccade.attention_backward(inputs.dout.numpy(), *qkv, out, lse, dlse=inputs.dlse.numpy(), **kwargs)
    parameters = "bias alibi_slopes temperature sinks head_gate score_bias relative_keys relative_bias".split()
    assert grads._fields == ("dq", "dk", "dv", *(f"d{n}" for n in parameters))
    got = {"out": out, "lse": lse} | {
        {"dq": "dquery", "dk": "dkey", "dv": "dvalue"}.get(n, n): g for n, g in grads._asdict().items() if g is not None
    }
    assert set(got) == set(want)
    helpers.same(want, {n: torch.from_numpy(np.array(x)) for n, x in got.items()})


def test_read_only_and_any_strides():
    """Read-only, reversed, sliced, transposed and broadcast arrays; the input stays as it was."""
    q, k, v = (t.numpy() for t in helpers.qkv(B=2, Hq=4, Hk=2, Nq=20, Nk=33, D=16, Dv=8))
    want = saccade.softmax_attention(q, k, v, causal=True)
    for t in (q, k, v):
        t.flags.writeable = False
    np.testing.assert_array_equal(saccade.softmax_attention(q, k, v, causal=True), want)

    def flipped(t, axes):
        return np.flip(np.ascontiguousarray(np.flip(t, axes)), axes)

    for axes in ((0,), (1,), (2,), (3,), (0, 1, 2, 3)):
        moved = [flipped(t, axes) for t in (q, k, v)]
        assert all(s < 0 for a in axes for s in [moved[0].strides[a]])
        np.testing.assert_array_equal(saccade.softmax_attention(*moved, causal=True), want)
    spread = [np.repeat(np.repeat(t, 2, 2), 3, 3)[:, :, ::2, ::3] for t in (q, k, v)]
    np.testing.assert_array_equal(saccade.softmax_attention(*spread, causal=True), want)
    fortran = [np.asfortranarray(t) for t in (q, k, v)]
    np.testing.assert_array_equal(saccade.softmax_attention(*fortran, causal=True), want)
    one = np.broadcast_to(k[:1], k.shape)
    np.testing.assert_array_equal(
        saccade.softmax_attention(q, one, v), saccade.softmax_attention(q, np.ascontiguousarray(one), v)
    )


def test_backward_of_read_only_reversed_arrays():
    q, k, v = (t.numpy() for t in helpers.qkv(Nq=20, Nk=33))
    out, lse = saccade.softmax_attention(q, k, v, return_lse=True)
    dout = np.ones_like(out)
    want = saccade.attention_backward(dout, q, k, v, out, lse)
    moved = [np.flip(np.ascontiguousarray(np.flip(t, (1, 2))), (1, 2)) for t in (dout, q, k, v, out)]
    for t in moved:
        t.flags.writeable = False
    for a, b in zip(saccade.attention_backward(*moved, lse), want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


def test_results_own_their_memory():
    q, k, v = (t.numpy() for t in helpers.qkv())
    out = saccade.softmax_attention(q, k, v)
    copy = out.copy()
    for seed in range(20):
        saccade.softmax_attention(*(t.numpy() for t in helpers.qkv(seed=seed)))
    np.testing.assert_array_equal(out, copy)


def test_kernels_can_be_forced_and_explained(kernel):
    q, k, v = (t.numpy() for t in helpers.qkv(Nq=40, Nk=70, D=40))
    assert [c.name for c in saccade.kernels.explain(q, k, v, causal=True) if c.chosen] == [kernel]
    want = saccade.softmax_attention(*(torch.from_numpy(t) for t in (q, k, v)), causal=True)
    np.testing.assert_array_equal(saccade.softmax_attention(q, k, v, causal=True), want.numpy())


@pytest.mark.parametrize("change, message", [
    (dict(k=np.zeros((1, 1, 33, 8), np.float32)), r"key: got shape \(1, 1, 33, 8\), wanted \(1, Hk, Nk, 16\)"),
    (dict(k=np.zeros((1, 1, 33, 16), np.float64)), r"key: got dtype float64, wanted float32"),
    (dict(q=np.zeros((1, 2, 20, 16), np.int32)), r"query: got dtype int32, wanted float32"),
    (dict(q=np.zeros((1, 2, 20, 16), np.complex64)), r"(q|query): got .*complex"),
    (dict(q=np.zeros((1, 2, 20, 16), object)), r"(q|query): got "),
    (dict(v=None), r"value: got no tensor, wanted"),
    (dict(v=[1.0]), r"value: got list, wanted"),
    (dict(dropout_p=0.1), r"seed: got None with dropout_p 0.1, wanted an int"),
    (dict(bias=np.zeros((3, 3), np.float32)), r"bias: got shape \(3, 3\)"),
])  # fmt: skip
def test_bad_arrays(change, message):
    args = dict(zip("qkv", (t.numpy() for t in helpers.qkv()), strict=True)) | change
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        saccade.softmax_attention(args.pop("q"), args.pop("k"), args.pop("v"), **args)


WITHOUT_TORCH = """
import sys
import saccade
assert "torch" not in sys.modules and "numpy" not in sys.modules, "import saccade must stay light"
import numpy as np
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, 2, n, 8)).astype(np.float32) for n in (5, 9, 9))
out, lse = saccade.softmax_attention(q, k, v, return_lse=True)
s = np.einsum("bhid,bhjd->bhij", q, k) / 8**0.5
w = np.exp(s)
np.testing.assert_allclose(out, w @ v / w.sum(-1, keepdims=True), rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(lse, np.log(w.sum(-1)), rtol=1e-4, atol=1e-5)
grads = saccade.attention_backward(np.ones_like(out), q, k, v, out, lse)
assert grads.dq.shape == q.shape and saccade.kernels.list()
assert "torch" not in sys.modules
"""


def test_without_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_jax():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    q, k, v = helpers.qkv(Hq=4, Hk=2)
    got = saccade.softmax_attention(*(jax.numpy.asarray(t.numpy()) for t in (q, k, v)), causal=True)
    assert isinstance(got, jax.Array)
    np.testing.assert_array_equal(np.asarray(got), saccade.softmax_attention(q, k, v, causal=True).numpy())
    low = [jax.numpy.asarray(t.numpy(), dtype="bfloat16") for t in (q, k, v)]
    out, lse = saccade.softmax_attention(*low, return_lse=True)
    assert out.dtype == "bfloat16" and lse.dtype == "float32"
    grads = saccade.attention_backward(out, *low, out, lse)
    leaves = [t.bfloat16().requires_grad_() for t in (q, k, v)]
    want = saccade.softmax_attention(*leaves)
    dq = torch.autograd.grad(want, leaves, want.detach())[0]
    np.testing.assert_array_equal(np.asarray(grads.dq.astype("float32")), dq.float().numpy())
