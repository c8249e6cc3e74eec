"""What every module of saccade.nn holds: decode, states, packing, causality, precision, compilation, laziness."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from nn_helpers import close, inputs, offsets, stirred
from saccade import nn

MODULES = {
    "flow": lambda: nn.FlowAttention(16, 4, kv_heads=2, causal=True),
    "flow-free": lambda: nn.FlowAttention(16, 4, causal=True, clamp=None, feature="relu"),
    "flow-global": lambda: nn.FlowAttention(16, 4, kv_heads=2),
    "inline": lambda: nn.InLineAttention(16, 4, causal=True),
    "inline-global": lambda: nn.InLineAttention(16, 4),
    "based": lambda: nn.BasedAttention(16, 2, feature=5),
    "based-global": lambda: nn.BasedAttention(16, 2, feature=5, causal=False),
    "baseconv": lambda: nn.BaseConv(16, silu=True),
    "gatedconv": lambda: nn.GatedConv(16, kernel=2),
    "shortconv": lambda: nn.ShortConv(16, 4, heads=4, silu=True),
    "temperature": lambda: nn.SelectiveAttention(16, 4, kv_heads=2, key="pos", per_head=True),
    "temperature-window": lambda: nn.SelectiveAttention(16, 4, window=3, count="visible", position="repo"),
    "temperature-global": lambda: nn.SelectiveAttention(16, 4, causal=False, shared=False),
    "rcmha": lambda: nn.RCMHA(16, 4, kv_heads=2, distance=5),
    "transnormer": lambda: nn.TransNormer(16, 4, layer=1, layers=3, lrpe=True, norm="layer", gate="sigmoid"),
    "transnormer-released": lambda: nn.TransNormer(16, 4, decay="retnet", silu_value=True),
    "random-features": lambda: nn.RandomFeatureAttention(16, 3, causal=True, mean=0.5),
    "random-features-global": lambda: nn.RandomFeatureAttention(16, 3, 8, power=0.5),
}
CAUSAL = [name for name in MODULES if not name.endswith("-global")]
PACKED_STATE = [name for name in CAUSAL if name.split("-")[0] not in ("temperature", "rcmha", "random")]


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return stirred(MODULES[name]())


def test_importing_it_imports_no_torch():
    code = (
        "import sys, saccade, saccade.nn; dir(saccade.nn); assert 'torch' not in sys.modules; saccade.nn.FlowAttention"
    )
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' in sys.modules"], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = nn.Nothing
    assert all(getattr(nn, name).__doc__ for name in nn.__all__)


@pytest.mark.parametrize("name", CAUSAL)
def test_steps_are_the_parallel_form(name):
    module, x = made(name), inputs(2, 9, 16)
    state, outs = None, []
    for t in range(9):
        out, state = module.step(x[:, t], state)
        outs.append(out)
    want, end = module(x, return_state=True)
    close(torch.stack(outs, 1), want)
    for got, wanted in zip(*((s if isinstance(s, tuple) else (s,)) for s in (state, end)), strict=True):
        close(got, wanted)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("at", [1, 5])
def test_two_calls_with_the_state_are_one(name, at):
    """With gradients: through the state into the first part."""
    module, x = made(name), inputs(2, 9, 16).requires_grad_(True)
    first, state = module(x[:, :at], return_state=True)
    parts = torch.cat([first, module(x[:, at:], initial_state=state)], 1)
    whole, cotangent = module(x), inputs(2, 9, 16, seed=4)
    close(parts, whole)
    wanted = (x, *module.parameters())
    for a, b in zip(*(torch.autograd.grad((y * cotangent).sum(), wanted) for y in (parts, whole)), strict=True):
        close(a, b)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_prompt_then_steps(name):
    module, x = made(name), inputs(2, 9, 16)
    want = module(x)
    out, state = module(x[:, :6], return_state=True)
    with torch.no_grad():
        for t in range(6, 9):
            out, state = module.step(x[:, t], state)
            close(out, want[:, t])


@pytest.mark.parametrize("name", MODULES)
@hypothesis.given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4))
@hypothesis.settings(max_examples=6)
def test_packed_is_a_loop_over_sequences(name, lengths):
    module, x = made(name), inputs(sum(lengths), 16).requires_grad_(True)
    got = module(x, cu_seqlens=offsets(lengths))
    parts = [module(one[None])[0] for one in x.split(lengths) if len(one)]
    assert got.shape[0] == len(x)
    if not parts:
        return
    close(got, torch.cat(parts))
    cotangent = inputs(*got.shape, seed=4)
    wanted = (x, *module.parameters())
    for a, b in zip(
        *(torch.autograd.grad((y * cotangent).sum(), wanted) for y in (got, torch.cat(parts))), strict=True
    ):
        close(a, b)


@pytest.mark.parametrize("name", PACKED_STATE)
def test_packed_states_are_those_of_the_sequences(name):
    """Sequences cut anywhere, an empty one among them, go on where they were."""
    module, lengths, later = made(name), (3, 0, 5, 1), (2, 4, 0, 3)
    a, b = inputs(9, 16), inputs(9, 16, seed=1)
    _, state = module(a, cu_seqlens=offsets(lengths), return_state=True)
    got, _ = module(b, cu_seqlens=offsets(later), initial_state=state, return_state=True)
    parts = [torch.cat(p)[None] for p in zip(a.split(lengths), b.split(later), strict=True)]
    close(got, torch.cat([module(p)[0, n:] for p, n in zip(parts, lengths, strict=True)]))


@pytest.mark.parametrize("name", CAUSAL)
def test_the_past_does_not_depend_on_the_future(name):
    module, x = made(name), inputs(1, 9, 16)
    changed = x.clone()
    changed[:, 6:] = 30.0
    a, b = module(x), module(changed)
    assert torch.equal(a[:, :6], b[:, :6]) and not torch.equal(a[:, 6:], b[:, 6:])


@pytest.mark.parametrize("name", MODULES)
def test_no_tokens(name):
    module = made(name)
    assert module(inputs(2, 0, 16)).shape[:2] == (2, 0)
    assert module(inputs(0, 3, 16)).shape[:2] == (0, 3)


@pytest.mark.parametrize("name", MODULES)
def test_bfloat16_and_autocast(name):
    """Near the float64 result, as parameters of the same rounding have it; sums over 300 tokens do not drift."""
    module = copy.deepcopy(made(name)).bfloat16()
    x = inputs(1, 300, 16).bfloat16()
    want = copy.deepcopy(module).double()(x.double())
    got = module(x)
    assert got.dtype == torch.bfloat16
    close(got, want, 0.04, "bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(copy.deepcopy(module).float()(x.float()), want, 0.04, "autocast")


@pytest.mark.parametrize("name", MODULES)
def test_compiles_in_one_graph(name):
    module, x = made(name).float(), inputs(2, 9, 16).float()
    torch._dynamo.reset()
    close(torch.compile(module, backend="aot_eager", fullgraph=True)(x), module(x).double(), 1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_meta_tensors(name):
    out = MODULES[name]().to("meta")(torch.empty(2, 5, 16, device="meta"))
    assert out.shape[:2] == (2, 5) and out.is_meta


@pytest.mark.parametrize("name", ["flow", "inline", "transnormer", "shortconv"])
def test_packed_calls_with_states_compile(name):
    """No graph break, hence no look at the offsets from the host."""
    module, x, cu = made(name), inputs(9, 16), offsets((3, 0, 5, 1))
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    _, state = compiled(x, cu_seqlens=cu, return_state=True)
    close(compiled(x, cu_seqlens=cu, initial_state=state), module(x, cu_seqlens=cu, initial_state=state))


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_data(name):
    module, x = made(name), inputs(1, 5, 16)
    close(pickle.loads(pickle.dumps(module))(x), module(x), 0)
    other = MODULES[name]().double()
    other.load_state_dict(module.state_dict())
    close(other(x), module(x), 0)


@pytest.mark.parametrize("name", [n for n in MODULES if n.endswith("-global")])
def test_what_has_no_order_refuses_states(name):
    module = made(name)
    with pytest.raises(ValueError, match="causal=True"):
        module.step(inputs(1, 16))


def test_heads_divide():
    for module in (
        nn.FlowAttention,
        nn.InLineAttention,
        nn.BasedAttention,
        nn.SelectiveAttention,
        nn.RCMHA,
        nn.TransNormer,
    ):
        with pytest.raises(ValueError, match=f"{module.__name__}: heads: got 5, wanted a divisor of the width 16"):
            module(16, 5)
    with pytest.raises(ValueError, match="FlowAttention: kv_heads: got 3, wanted a divisor of 4 heads"):
        nn.FlowAttention(16, 4, kv_heads=3)
    with pytest.raises(ValueError, match=r"causal_conv1d: weight: got shape \(5, 3\), wanted \(16, Kw\)"):
        nn.causal_conv1d(inputs(1, 4, 16), inputs(5, 3))
