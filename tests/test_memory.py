"""No N x N tensor: peak memory of a training step at N and 2N. And offsets beyond 2^31 elements."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys

import pytest
import saccade
import torch
from helpers import close, qkv

PROBE = """
import json, sys, torch, saccade
dtype, nq, nk, option = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
H, D = 2, 32
torch.set_num_threads(2)

def status(field):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(field))

def inputs(nq, nk):
    q, k, v = (torch.randn(1, H, n, D).to(getattr(torch, dtype)).requires_grad_() for n in (nq, nk, nk))
    more = {}
    if option == "terms":
        more = {"alibi_slopes": torch.rand(H).requires_grad_(), "sinks": torch.zeros(H).requires_grad_()}
    if option == "keys":
        more = {"bias": torch.zeros(1, 1, 1, nk).requires_grad_()}
    return q, k, v, more

def step(q, k, v, more):
    p = 0.1 if option == "terms" else 0.0
    out = saccade.softmax_attention(q, k, v, causal=nq == nk, dropout_p=p, seed=1, **more)
    out.backward(torch.ones_like(out))

step(*inputs(64, 64))  # loads code, starts threads
args = inputs(nq, nk)
open("/proc/self/clear_refs", "w").write("5")  # VmHWM := VmRSS
before = status("VmRSS")
step(*args)
print(json.dumps(status("VmHWM") - before))
"""


def peak(dtype: str, nq: int, nk: int, option: str = "plain") -> int:
    """Bytes that a forward and backward add at their highest, gradients and saved tensors included."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, dtype, str(nq), str(nk), option],
        capture_output=True,
        text=True,
        env=os.environ
        | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back: nothing of the warm-up is reused
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


try:
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    CAN_MEASURE = True
except OSError:
    CAN_MEASURE = False
measured = pytest.mark.skipif(not CAN_MEASURE, reason="/proc/self/clear_refs cannot be written here")
MIB = 2**20


@measured
@pytest.mark.parametrize(
    "dtype, option", [("float32", "plain"), ("bfloat16", "plain"), ("float32", "terms"), ("float32", "keys")]
)
def test_training_memory_is_linear(dtype, option):
    """Peak(2N) <= 2.1 peak(N), and both below the stated formula (H = 2, D = Dv = 32).

    out, dout, dq, dk, dv: 5 H N D elements, lse: 4 H N bytes, and the larger workspace, the forward's (attention.h):
    H N (D + Dv) floats, plus a constant. One N x N float32 matrix of one head would be 64 MiB at N = 4096.
    """
    size = 4 if dtype == "float32" else 2

    def allowed(n: int) -> int:
        return 5 * 2 * n * 32 * size + 4 * 2 * n + 4 * 2 * n * (32 + 32) + 8 * MIB

    small, large = peak(dtype, 4096, 4096, option), peak(dtype, 8192, 8192, option)
    assert small <= allowed(4096) < 64 * MIB and large <= allowed(8192), (small, large)
    assert large <= 2.1 * small + MIB, (small, large)


@measured
def test_decode_memory_does_not_follow_the_cache():
    """One query over 400k keys: the extra is dk, dv (2 x 98 MiB) and partial results, not the cache once per thread."""
    keys = 2 * 2 * 400_000 * 32 * 4
    assert peak("float32", 1, 400_000) <= keys * 1.6 + 16 * MIB


def lazily(shape: tuple[int, ...], strides: tuple[int, ...], fill: torch.Tensor) -> torch.Tensor:
    """A float32 view with these strides over anonymous memory of which only the touched pages exist."""
    reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    t = torch.frombuffer(mmap.mmap(-1, 4 * reach, flags=flags), dtype=torch.float32).as_strided(shape, strides)
    t.copy_(fill)
    return t


FAR = {
    "row": lambda n, d: (1, 1, 2**28 + 16, 1),
    "head": lambda n, d: (1, 2**31 + 64, d, 1),
    "channel": lambda n, d: (1, d * 2**28, 1, 2**28 + 8),
}


@pytest.mark.parametrize("axis", list(FAR))
@pytest.mark.parametrize("nq, nk", [(12, 17), (20, 33)])
def test_offsets_beyond_32_bits(kernel, untracked_memory, axis, nq, nk):
    """Strided views that span more than 2^31 elements, forward and backward, equal their dense copies bitwise."""
    if axis == "row":
        shape = dict(Hq=1, Hk=1, D=8, Dv=8)
    else:
        shape = dict(Hq=2, Hk=2, D=9, Dv=9)
    dense = qkv(Nq=nq, Nk=nk, **shape)
    far = []
    for t in dense:
        strides = FAR[axis](t.shape[2], t.shape[3])
        if axis == "channel":
            strides = (1, t.shape[2], 1, 2**28 + 8)
        far.append(lazily(tuple(t.shape), strides, t))
        reach = sum((n - 1) * s for n, s in zip(t.shape, strides, strict=True))
        assert reach > 2**31, reach
    results = []
    for leaves in (dense, far):
        leaves = [t.detach().requires_grad_() for t in leaves]
        out, lse = saccade.softmax_attention(*leaves, causal=True, return_lse=True)
        results.append(
            (out, lse, *torch.autograd.grad((out, lse), leaves, (torch.ones(out.shape), torch.ones(lse.shape))))
        )
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_bias_beyond_32_bits(kernel, untracked_memory):
    q, k, v = qkv(Nq=12, Nk=20)
    bias = torch.randn(1, 2, 12, 20, generator=torch.Generator().manual_seed(0))
    far = lazily(tuple(bias.shape), (1, 2**31 + 5, 20, 1), bias)
    close(saccade.softmax_attention(q, k, v, bias=far), saccade.softmax_attention(q, k, v, bias=bias), 1e-3)
