"""The recall example: its sequences against the exact distribution, the sizes it claims, a run of a few steps."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import permutations

import pytest
import torch
from saccade.demo import mqar

COUNT = 20000
NAMES = ["softmax", "sigmoid", *["lightning"] * 3, *["Based"] * 4]


def generate(*args, **options):
    return mqar.generate(*args, torch.Generator().manual_seed(3), **options)


def parsed(inputs: list[int], labels: list[int], pairs: int, passes: int) -> tuple[list, list, list, list]:
    """Keys and values of the context, the slot (from 1) that asks for each, and the tokens that are left over."""
    context = 2 * pairs * passes
    keys, values = inputs[0 : 2 * pairs : 2], inputs[1 : 2 * pairs : 2]
    assert inputs[:context] == inputs[: 2 * pairs] * passes
    asked = [t for t, label in enumerate(labels) if label != -100]
    assert len(asked) == pairs and all(t >= context and (t - context) % 2 == 0 for t in asked)
    slot = {inputs[t]: (t - context) // 2 + 1 for t in asked}
    assert all(labels[t] == values[keys.index(inputs[t])] for t in asked)
    rest = [x for t, x in enumerate(inputs) if t >= context and t not in asked]
    return keys, values, [slot[k] for k in keys], rest


def close(counted: Counter, expected: dict) -> None:
    """Every cell within 5 standard deviations, and nothing outside the cells."""
    total = sum(counted.values())
    assert set(counted) <= set(expected) and math.isclose(sum(expected.values()), 1)
    for cell, p in expected.items():
        assert abs(counted[cell] - total * p) < 5 * math.sqrt(total * p * (1 - p)), cell


@pytest.mark.parametrize("passes", [1, 2])
def test_distribution(passes):
    """All ordered draws of 3 keys of 1…5, 3 values of 6…11, and 3 of 4 slots, with their exact probabilities."""
    inputs, labels = generate(COUNT, 6 * passes + 8, 3, 12, passes=passes, power=0.25)
    rows = [parsed(x, y, 3, passes) for x, y in zip(inputs.tolist(), labels.tolist(), strict=True)]
    close(Counter(tuple(r[0]) for r in rows), {p: 1 / 60 for p in permutations(range(1, 6), 3)})
    close(Counter(tuple(r[1]) for r in rows), {p: 1 / 120 for p in permutations(range(6, 12), 3)})
    w = {i: 0.25 * i ** (0.25 - 1) for i in range(1, 5)}
    total = sum(w.values())

    def in_turn(slots):
        p, left = 1.0, total
        for i in slots:
            p, left = p * w[i] / left, left - w[i]
        return p

    close(Counter(tuple(r[2]) for r in rows), {p: in_turn(p) for p in permutations(range(1, 5), 3)})
    close(Counter(x for r in rows for x in r[3]), {x: 1 / 12 for x in range(12)})
    # a key says nothing about its value, nor about its slot
    close(Counter((r[0][0], r[1][0]) for r in rows), {(k, v): 1 / 30 for k in range(1, 6) for v in range(6, 12)})
    first = {i: w[i] / total / 5 for i in w}
    close(Counter((r[0][0], r[2][0]) for r in rows), {(k, i): first[i] for k in range(1, 6) for i in w})


def test_default_power():
    inputs, labels = generate(COUNT, 34, 1, 64)
    slots = Counter(parsed(x, y, 1, 1)[2][0] for x, y in zip(inputs.tolist(), labels.tolist(), strict=True))
    w = {i: 0.01 * i**-0.99 for i in range(1, 17)}
    close(slots, {i: x / sum(w.values()) for i, x in w.items()})


def test_without_filler_and_full():
    inputs, labels = generate(50, 64, 8, 512, random_filler=False)
    assert all(set(parsed(x, y, 8, 1)[3]) == {0} for x, y in zip(inputs.tolist(), labels.tolist(), strict=True))
    inputs, labels = generate(50, 32, 8, 512)  # every slot asks
    assert ((labels != -100).sum(0) == torch.tensor([0] * 16 + [50, 0] * 8)).all()


@pytest.mark.parametrize(("length", "pairs", "vocab"), [(31, 4, 64), (30, 8, 64), (64, 8, 16)])
def test_refuses(length, pairs, vocab):
    with pytest.raises(ValueError, match=f"got length {length}, pairs {pairs}, vocab {vocab}"):
        generate(1, length, pairs, vocab)


def test_sizes_are_those_of_the_states(monkeypatch):
    states = []

    def keeping(call):
        def kept(*args, **options):
            out, state = call(*args, return_state=True, **options)
            states.append(state)
            return out

        return kept

    for f in (mqar.saccade.lightning_attention, mqar.saccade.linear_attention):
        monkeypatch.setattr(mqar.saccade, f.__name__, keeping(f))
    for mixer in mqar.mixers(16, 12):
        mqar.Recall(16, mixer.dim, mixer.attend)(torch.randn(1, 12, 16))
        assert (states.pop().numel() if mixer.name in ("lightning", "Based") else 2 * 12 * 16) == mixer.held(12)
    assert not states


def test_quick_run(tmp_path, capsys):
    def run():
        tasks = ["--lengths", "12", "16", "--pairs", "2", "3"]
        assert mqar.main(["--quick", "--out", str(tmp_path), *tasks]) == 0
        return json.loads((tmp_path / "result.json").read_text())

    result = run()
    assert [r["name"] for r in result["runs"]] == NAMES and result["faults"] == []
    assert all(len(r["held"]) == 2 and all(0 <= a <= 1 for a in r["accuracy"]) for r in result["runs"])
    assert "not judged" in capsys.readouterr().out
    losses = [r["loss"] for r in result["runs"]]
    assert losses == [r["loss"] for r in run()["runs"]] and len(set(losses)) == len(NAMES)
    pytest.importorskip("matplotlib")
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")


def runs(**accuracies):
    held = {"softmax": [900], "sigmoid": [900], "lightning": [100, 200, 400], "Based": [90, 180, 300, 800]}
    return [
        {"name": name, "held": [n], "accuracy": [y]}
        for name, sizes in held.items()
        for n, y in zip(sizes, accuracies[name], strict=True)
    ]


def test_verdict():
    known = dict(softmax=[0.99], sigmoid=[0.98], lightning=[0.2, 0.4, 0.8], Based=[0.4, 0.7, 0.9, 0.97])
    assert mqar.judge(runs(**known)) == []
    for part, accuracy, fault in (
        ("softmax", [0.9], "softmax solves it: got 0.900, wanted 0.95"),
        ("sigmoid", [0.9], "sigmoid comes close"),
        ("lightning", [0.2, 0.4, 0.35], "lightning gets better with its state"),
        ("Based", [0.9, 0.91, 0.92, 0.93], "Based gets better with its state"),
        ("Based", [0.4, 0.7, 0.9, 1.05], "Based stays below softmax"),
    ):
        faults = mqar.judge(runs(**known | {part: accuracy}))
        assert any(fault in f for f in faults), (part, faults)
