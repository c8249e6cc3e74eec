"""Linear attention against its oracle, and what must hold exactly: states, order, chunks, steps, threads."""

from __future__ import annotations

import dataclasses

import linear_cases
import pytest
import saccade
import torch
from conftest import runnable
from hypothesis import given
from hypothesis import strategies as st
from linear_cases import CASES, LinearCase, LinearInputs
from torch import Tensor

KERNELS = runnable("linear_attention")
REFERENCE = "cpu.reference.linear"


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest):
    with saccade.kernels.use(request.param):
        yield request.param


def device() -> str:
    return "cuda" if saccade.kernels.forced().startswith("cuda.") and torch.cuda.is_available() else "cpu"


def can(inputs: LinearInputs, **step) -> None:
    """Skips what the forced kernel says it cannot run: only limits that csrc/README.md lists."""
    options = inputs.kwargs | step
    for row in saccade.kernels.explain(
        *(inputs.tensors[x] for x in ("query", "key", "value")), op="linear_attention", **options
    ):
        if row.name == saccade.kernels.forced() and row.reason:
            assert "features" in row.reason, row.reason
            pytest.skip(row.reason)


def run(inputs: LinearInputs) -> dict[str, Tensor]:
    """Outputs and gradients by name, through autograd."""
    where = device()
    t = {k: _copy(x, where).requires_grad_(True) for k, x in inputs.tensors.items()}
    options = {k: x.to(where) if isinstance(x, Tensor) else x for k, x in inputs.options.items()}
    rest = {k: x for k, x in t.items() if k not in ("query", "key", "value")}
    has_state = inputs.dstate is not None
    result = saccade.linear_attention(t["query"], t["key"], t["value"], return_state=has_state, **rest, **options)
    outputs = result if has_state else (result,)
    seeds = (inputs.dout.to(where), inputs.dstate.to(where)) if has_state else (inputs.dout.to(where),)
    grads = torch.autograd.grad(outputs, list(t.values()), seeds)
    named = {f"d{k}": g for k, g in zip(t, grads, strict=True)}
    for (k, x), g in zip(t.items(), grads, strict=True):
        assert g.dtype == x.dtype and g.shape == x.shape, k
    found = {"out": outputs[0].detach(), **named} | ({"state": outputs[1].detach()} if has_state else {})
    return {k: x.cpu() for k, x in found.items()}


def _copy(x: Tensor, where: str) -> Tensor:
    if where == "cpu":
        return x.detach()
    storage = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).to(where)
    return torch.as_strided(storage, x.shape, x.stride(), x.storage_offset())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_oracle(case, kernel):
    inputs, expected = linear_cases.expected_of(case)
    can(inputs)
    expected.check(run(inputs), kernel)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_against_oracle(case):
    inputs, expected = linear_cases.expected_of(dataclasses.replace(case, dtype="float64"))
    expected.check(run(inputs))


@pytest.mark.parametrize("name", ["plain", "token_state", "channel_state", "normalize_state"])
def test_budget_rejects_small_wrongs(name):
    """One token missing, a decay one per mille off, and an own token that decays leave the budget."""
    case = next(c for c in CASES if c.name == name)
    inputs, expected = linear_cases.expected_of(case)
    value = inputs.tensors["value"].clone()
    value[..., 3, :] = 0
    wrongs = [dataclasses.replace(inputs, tensors=inputs.tensors | {"value": value})]
    wrongs += (
        [dataclasses.replace(inputs, options=inputs.options | {"scale": case.scale * 1.001})]
        if not case.normalize
        else []
    )
    if "log_decay" in inputs.tensors:
        decay = inputs.tensors["log_decay"]
        wrongs += [
            dataclasses.replace(inputs, tensors=inputs.tensors | {"log_decay": x})
            for x in (decay * 1.001, decay.roll(1, 2))
        ]
    for wrong in wrongs:
        with pytest.raises(AssertionError):
            expected.check(linear_cases.gradients(wrong, torch.float64))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device())


def problem(n: int = 200, d: int = 16, e: int = 24, decay: str = "token", b: int = 2, h: int = 2):
    q, k, v = (random(b, h, n, x, seed=i) for i, x in enumerate((d, d, e)))
    shape = {"head": (h,), "token": (b, h, n), "channel": (b, h, n, d)}[decay]
    return q, k, v, -0.1 * random(*shape, seed=9).abs()


def close(a: Tensor, b: Tensor, factor: float = 1.0) -> None:
    torch.testing.assert_close(a, b, rtol=2e-5 * factor, atol=2e-4 * factor)


def cut(x: Tensor | None, *where: slice) -> Tensor | None:
    return x if x is None or x.dim() == 1 else x[(slice(None), slice(None), *where)]


@pytest.mark.parametrize("decay", ["head", "token", "channel"])
@pytest.mark.parametrize("reverse", [False, True])
def test_split_and_resume_is_one_call(kernel, decay, reverse):
    q, k, v, g = problem(decay=decay)
    out, state = saccade.linear_attention(q, k, v, log_decay=g, reverse=reverse, return_state=True)
    at, carried, parts = 83, None, {}
    for part in (slice(at, None), slice(at)) if reverse else (slice(at), slice(at, None)):
        parts[part.start], carried = saccade.linear_attention(
            *(x[:, :, part] for x in (q, k, v)), log_decay=cut(g, part), reverse=reverse, initial_state=carried,
            return_state=True,
        )  # fmt: skip
    close(torch.cat([parts[None], parts[at]], 2), out)
    close(carried, state)


@pytest.mark.parametrize("decay", ["head", "token", "channel"])
def test_reverse_is_time_flipped(kernel, decay):
    q, k, v, g = problem(decay=decay)
    out = saccade.linear_attention(q, k, v, log_decay=g, reverse=True)
    flipped = saccade.linear_attention(*(x.flip(2) for x in (q, k, v)), log_decay=g if g.dim() == 1 else g.flip(2))
    close(out, flipped.flip(2))


@given(n=st.integers(0, 130), chunk=st.integers(1, 140), decay=st.sampled_from(["head", "token", "channel"]))
def test_chunks_round_only(n, chunk, decay):
    q, k, v, g = problem(n, decay=decay)
    close(*(saccade.linear_attention(q, k, v, log_decay=g, chunk=c) for c in (chunk, None)))


def test_zero_decay_is_none(kernel):
    q, k, v, _ = problem()
    plain = saccade.linear_attention(q, k, v)
    for g in (torch.zeros(2), torch.zeros(2, 2, 200), torch.zeros(2, 2, 200, 16)):
        close(saccade.linear_attention(q, k, v, log_decay=g.to(device())), plain)


@pytest.mark.parametrize("strength", [50.0, 1e4, float("inf")])
def test_strong_decay_leaves_the_own_token(kernel, strength):
    q, k, v, g = problem(decay="channel")
    for decay in (
        torch.full_like(g, -strength),
        torch.full_like(g[..., 0], -strength),
        torch.full_like(g[0, :, 0, 0], -strength),
    ):
        out = saccade.linear_attention(q, k, v, log_decay=decay)
        close(out, (q * k).sum(-1, keepdim=True) * v)


@pytest.mark.parametrize(
    "options", [{}, {"normalize": True}, {"feature": "taylor2", "scale": 0.3, "normalize": True}], ids=str
)
@pytest.mark.parametrize("decay", [None, "head", "token", "channel"])
def test_steps_are_the_scan(kernel, options, decay):
    q, k, v, g = problem(20, decay=decay or "head")
    q, k = q.abs(), k.abs()
    g = None if decay is None or "feature" in options else g
    can(LinearInputs(LinearCase(""), {"query": q, "key": k, "value": v}, options, v, None))
    out, state = saccade.linear_attention(q, k, v, log_decay=g, return_state=True, **options)
    carried = torch.zeros_like(state)
    for t in range(20):
        got = saccade.linear_attention_step(q[:, :, t], k[:, :, t], v[:, :, t], carried, log_decay=cut(g, t), **options)
        close(got, out[:, :, t])
    close(carried, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_step_of_shared_heads_in_any_type_and_stride(dtype):
    q, k, v = random(3, 4, 10, dtype=dtype), random(3, 2, 10, seed=1, dtype=dtype), random(3, 1, 9, seed=2, dtype=dtype)
    statistic = torch.float64 if dtype == torch.float64 else torch.float32
    big = random(3, 4, 10, 20, seed=3, dtype=statistic)
    before = big.clone()
    state = big[..., 1:19:2]
    want = 0.5 * before[..., 1:19:2] + k.repeat_interleave(2, 1)[..., None].to(statistic) * v.repeat_interleave(4, 1)[
        :, :, None
    ].to(statistic)
    out = saccade.linear_attention_step(q, k, v, state, log_decay=torch.full((4,), 0.5).log())
    close(big[..., 1:19:2], want)
    assert torch.equal(big[..., ::2], before[..., ::2])
    close(out, (q[:, :, None].to(statistic) @ want)[:, :, 0].to(dtype), 200)


def test_later_tokens_are_not_seen(kernel):
    q, k, v, g = problem(150)
    out = saccade.linear_attention(q, k, v, log_decay=g)
    for x in (q, k, v):
        changed = [y.clone() for y in (q, k, v)]
        changed[[q is x, k is x, v is x].index(True)][:, :, 77:] = float("nan")
        assert torch.equal(saccade.linear_attention(*changed, log_decay=g)[:, :, :77], out[:, :, :77])


def test_packed_is_a_loop(kernel):
    lengths = (3, 0, 97, 64)
    q, k, v = (random(sum(lengths), 2, d, seed=i) for i, d in enumerate((16, 16, 8)))
    g = -0.1 * random(sum(lengths), 2, seed=5).abs()
    bounds = torch.tensor((0, *lengths)).cumsum(0)
    out, state = saccade.linear_attention(q, k, v, log_decay=g, return_state=True, cu_seqlens=bounds.int().to(device()))
    for b, (i, j) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        own = [x[i:j].transpose(0, 1)[None] for x in (q, k, v, g)]
        alone, end = saccade.linear_attention(*own[:3], log_decay=own[3], return_state=True)
        close(out[i:j], alone[0].transpose(0, 1))
        close(state[b], end[0])


@pytest.mark.parametrize("threads_of", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 1, 500), (3, 2, 150)])
def test_threads_do_not_change_a_bit(threads, threads_of, shape):
    case = LinearCase(
        "threads", B=shape[0], Hq=shape[1], Hk=shape[1], Hv=shape[1], N=shape[2], decay="token", state=True
    )
    inputs = linear_cases.make(case)
    threads(3)
    want = run(inputs)
    threads(threads_of)
    got = run(inputs)
    assert all(torch.equal(want[x], got[x]) for x in want)


def test_same_call_same_bits(kernel):
    inputs = linear_cases.make(LinearCase("bits", N=150, Hq=4, Hk=2, Hv=2, decay="head", state=True))
    first, second = run(inputs), run(inputs)
    assert all(torch.equal(first[x], second[x]) for x in first)


@pytest.mark.parametrize("sizes", [(0, 2, 5), (2, 2, 0), (1, 0, 5)], ids=str)
def test_nothing_to_do(kernel, sizes):
    b, h, n = sizes
    inputs = linear_cases.make(LinearCase("empty", B=b, Hq=h, Hk=h, Hv=h, N=n, decay="head", state=True))
    found = run(inputs)
    if n == 0:
        assert torch.equal(found["state"], inputs.tensors["initial_state"])
        assert torch.equal(found["dinitial_state"], inputs.dstate)
        assert (found["dlog_decay"] == 0).all()


def test_presets():
    """The formulas of the three conventions, and that depth and heads count from 0."""
    assert saccade.linear.alibi_slopes(4) == [2**-2, 2**-4, 2**-6, 2**-8]
    assert saccade.linear.alibi_slopes(6) == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    assert saccade.linear.alibi_layer(4, 0, 3) == pytest.approx([-x * (1 + 1e-5) for x in (2**-2, 2**-4, 2**-6, 2**-8)])
    assert saccade.linear.alibi_layer(4, 2, 3) == pytest.approx([-x * 1e-5 for x in (2**-2, 2**-4, 2**-6, 2**-8)])
    assert saccade.linear.linear_head(4, 1, 2) == pytest.approx([0, -1, -2, -3])
    assert saccade.linear.retnet(2) == pytest.approx([-0.0317486983, -0.0157483570])
    with pytest.raises(ValueError, match="layer: got 3 of 3"):
        saccade.linear.linear_head(4, 3, 3)


def test_lightning_is_linear_with_slopes():
    q, k, v, _ = problem(50)
    slopes = torch.tensor([0.3, 0.01], requires_grad=True)
    out = saccade.lightning_attention(q, k, v, slopes=slopes)
    close(out.detach(), saccade.linear_attention(q, k, v, log_decay=[-0.3, -0.01], scale=16**-0.5))
    assert torch.autograd.grad(out.sum(), slopes)[0].abs().min() > 0
    close(
        saccade.lightning_attention(q, k, v),
        saccade.lightning_attention(q, k, v, slopes=saccade.linear.alibi_slopes(2)),
    )
