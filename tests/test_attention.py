"""Every case on every kernel of this machine against the oracle: outputs, lse, every gradient; and where NaN may go."""

from __future__ import annotations

import dataclasses

import cases
import helpers
import pytest
import saccade
import torch
from conftest import KERNELS, REFERENCE, expected_of, inputs_of

NAN = float("nan")
EVERYWHERE = [c for c in cases.select() if c.dtype != "float64"]


@pytest.mark.parametrize("case", EVERYWHERE, ids=str)
def test_against_oracle(case, kernel):
    expected_of(case).check(helpers.run(inputs_of(case)), f"{case.name} on {kernel}")


@pytest.mark.parametrize("case", cases.select(dtype="float64"), ids=str)
def test_float64_against_oracle(case):
    with saccade.kernels.use(REFERENCE):
        expected_of(case).check(helpers.run(inputs_of(case)), case.name)


@pytest.mark.parametrize("name", KERNELS)
def test_forced_kernel_is_the_one_that_runs(name):
    """`use` changes the choice that explain reports, nests, and ends with the block."""
    inputs = inputs_of(cases.BY_NAME["gqa8x2-float32"])

    def chosen() -> list[str]:
        return [c.name for c in saccade.kernels.explain(*inputs.qkv, **inputs.kwargs) if c.chosen]

    before = chosen()
    assert before == KERNELS[:1]
    with saccade.kernels.use(name):
        assert chosen() == [name]
        with saccade.kernels.use(REFERENCE):
            assert chosen() == [REFERENCE]
        assert chosen() == [name]
    assert chosen() == before


def test_kernels_are_different_code():
    """Forcing reaches different arithmetic: float32 sums in another order differ in their last bits."""
    inputs = inputs_of(cases.BY_NAME["values-outliers-float32"])
    results = {}
    for name in KERNELS:
        with saccade.kernels.use(name):
            results[name] = helpers.forward(inputs)[0]
    for name in KERNELS:
        if name != REFERENCE:
            assert not torch.equal(results[name], results[REFERENCE]), name


def test_forcing_nonsense_lists_every_kernel():
    inputs = inputs_of(cases.BY_NAME["gqa8x2-float32"])
    with pytest.raises((RuntimeError, ValueError), match="cpu.nonsense") as e, saccade.kernels.use("cpu.nonsense"):
        helpers.forward(inputs)
    names = {k.name for k in saccade.kernels.list() if k.op == "attention"}
    assert names >= {REFERENCE} and all(n in str(e.value) for n in names)


def test_forcing_what_cannot_run_gives_every_reason():
    inputs = inputs_of(cases.BY_NAME["double-float64"])
    tiled = next((n for n in KERNELS if n != REFERENCE), None)
    assert tiled, "no tiled kernel runs on this machine"
    with pytest.raises(RuntimeError, match="float64") as e, saccade.kernels.use(tiled):
        helpers.forward(inputs)
    assert REFERENCE in str(e.value) and tiled in str(e.value)
    reasons = {c.name: c.reason for c in saccade.kernels.explain(*inputs.qkv)}
    assert reasons[REFERENCE] == "" and "float64" in reasons[tiled]


@pytest.mark.parametrize(
    "name", ["window-empty-float32", "bias-bool-float32", "q200k17-causal-bfloat16", "varlen-float16"]
)
def test_empty_rows_are_exactly_zero(name, kernel):
    """out 0, lse -inf, no gradient from or to such a row, whatever gradient arrives there."""
    inputs = inputs_of(cases.BY_NAME[name])
    empty = expected_of(inputs.case).results["lse"] == float("-inf")
    assert empty.any()
    dout, dlse = inputs.dout.clone(), inputs.dlse.clone()
    calm = helpers.run(inputs)
    dout[empty], dlse[empty] = 1e4, -1e4
    got = helpers.run(dataclasses.replace(inputs, dout=dout, dlse=dlse))
    assert not got["out"][empty].any() and (got["lse"][empty] == float("-inf")).all()
    assert not got["dquery"][empty].any()
    helpers.same(calm, got)


def _poisoned(inputs: cases.Inputs, name: str, index: tuple, value: float) -> cases.Inputs:
    t = inputs.tensors[name].clone()
    t[index] = value
    return dataclasses.replace(inputs, tensors=inputs.tensors | {name: t})


def _unreached(clean: dict, got: dict, reached: dict[str, torch.Tensor]) -> None:
    """Outside the masks `reached` (absent: nothing is reached) the results keep their bits."""
    for name, x in got.items():
        mask = reached.get(name, torch.zeros((), dtype=torch.bool)).expand(x.shape)
        assert torch.equal(x[~mask], clean[name][~mask]), f"{name} changed where nothing depends on the poison"


CAUSAL = cases.Case("poison", B=2, Hq=4, Hk=2, Nq=70, Nk=90, D=24, Dv=20, causal=True)


def _mask(shape: torch.Size, *index) -> torch.Tensor:
    m = torch.zeros(shape, dtype=torch.bool)
    m[index] = True
    return m


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, (12, 0)])
def test_poisoned_query(kernel, value, dtype, window):
    """Query (1, 2, 30) reaches its own row, and the keys it sees (p = 50, head 1)."""
    case = dataclasses.replace(CAUSAL, dtype=dtype, window=window)
    inputs = cases.make(case)
    bad = _poisoned(inputs, "query", (1, 2, 30, 5), value)
    clean, got = helpers.run(inputs), helpers.run(bad)
    assert got["out"][1, 2, 30].isnan().all() and not got["lse"][1, 2, 30].isfinite()
    row = _mask(got["lse"].shape, 1, 2, 30)
    first = 0 if window is None else 50 - 12
    keys = _mask(got["dkey"].shape[:3], 1, 1, slice(first, 51))[..., None]
    _unreached(clean, got, {"out": row[..., None], "lse": row, "dquery": row[..., None], "dkey": keys, "dvalue": keys})


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["key", "value"])
def test_poisoned_key_or_value(kernel, value, dtype, which):
    """Row 60 of key/value head 1 in batch 1 reaches queries with p >= 60, that is i >= 40, of heads 2 and 3."""
    inputs = cases.make(dataclasses.replace(CAUSAL, dtype=dtype))
    bad = _poisoned(inputs, which, (1, 1, 60, 3), value)
    clean, got = helpers.run(inputs), helpers.run(bad)
    rows = _mask(got["lse"].shape, 1, slice(2, 4), slice(40, None))
    keys = _mask(got["dkey"].shape[:3], 1, 1)[..., None]
    if which == "value":
        assert not got["out"][1, 2:, 40:, 3].isfinite().any()
        only = _mask(got["out"].shape, 1, slice(2, 4), slice(40, None), 3)
        reached = {"out": only, "dquery": rows[..., None], "dkey": keys}
    else:
        if value != value:
            assert got["out"][1, 2:, 40:].isnan().all() and got["lse"][1, 2:, 40:].isnan().all()
        reached = {"out": rows[..., None], "lse": rows, "dquery": rows[..., None], "dkey": keys, "dvalue": keys}
    _unreached(clean, got, reached)


@pytest.mark.parametrize("which", ["bool", "window", "neginf"])
def test_poison_behind_a_mask_is_not_seen(kernel, which):
    """A key that no query sees may hold anything."""
    inputs = cases.make(cases.Case("behind", Nq=33, Nk=80, Hk=2, D=16, causal=True))
    options, tensors = dict(inputs.options), dict(inputs.tensors)
    if which == "window":
        options["window"] = (10, 0)  # p starts at 47: keys before 37 are seen by nobody
    else:
        see = torch.ones(80, dtype=torch.bool)
        see[20] = False
        tensors["bias"] = see if which == "bool" else torch.zeros(80).masked_fill(~see, float("-inf"))
        tensors["bias"] = tensors["bias"].reshape(1, 1, 1, 80)
    inputs = dataclasses.replace(inputs, options=options, tensors=tensors)
    clean = helpers.run(inputs)
    got = helpers.run(_poisoned(_poisoned(inputs, "value", (0, 1, 20), NAN), "key", (0, 1, 20), NAN))
    if which == "neginf":  # NaN + -inf is NaN: an additive mask cannot hide a key that is NaN, only its value
        got = helpers.run(_poisoned(inputs, "value", (0, 1, 20), NAN))
        reached = {n: torch.ones((), dtype=torch.bool) for n in ("out", "dquery", "dkey", "dbias")}
        _unreached({k: x for k, x in clean.items()}, {k: got[k] for k in ("lse", "dvalue")}, reached)
        return
    _unreached(clean, got, {})


def test_poisoned_sequence_stays_alone(kernel):
    """Packed: NaN in sequence 2 leaves the others' bits."""
    inputs = cases.make(cases.Case("p", Hq=4, Hk=2, lengths_q=(5, 17, 30, 1), lengths_k=(40, 17, 33, 9), causal=True))
    tensors = {n: inputs.tensors[n].clone() for n in ("query", "key", "value")}
    q, k = slice(22, 52), slice(57, 90)
    tensors["query"][q], tensors["key"][k], tensors["value"][k] = NAN, NAN, NAN
    clean, got = helpers.run(inputs), helpers.run(dataclasses.replace(inputs, tensors=tensors))
    assert got["out"][q].isnan().all()
    at = {"q": _mask(got["lse"].shape[:1], q), "k": _mask(got["dkey"].shape[:1], k)}
    rows = {n: at["k" if n in ("dkey", "dvalue") else "q"] for n in got}
    _unreached(clean, got, {n: m[:, None] if got[n].dim() == 2 else m[:, None, None] for n, m in rows.items()})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_poisoned_dout(kernel, dtype):
    """NaN in dout row (0, 1, 10), p = 30: its dquery row and the keys and values it sees."""
    inputs = cases.make(dataclasses.replace(CAUSAL, dtype=dtype, B=1))
    dout = inputs.dout.clone()
    dout[0, 1, 10, 0] = NAN
    clean, got = helpers.run(inputs), helpers.run(dataclasses.replace(inputs, dout=dout))
    assert got["dquery"][0, 1, 10].isnan().all() and got["dvalue"][0, 0, :31, 0].isnan().all()
    row = _mask(got["lse"].shape, 0, 1, 10)[..., None]
    keys = _mask(got["dkey"].shape[:3], 0, 0, slice(0, 31))[..., None]
    values = _mask(got["dvalue"].shape, 0, 0, slice(0, 31), 0)
    _unreached(clean, got, {"dquery": row, "dkey": keys, "dvalue": values})
