"""`python -m saccade demo`, tiny: it trains, the curves coincide, the report is whole, a wrong attention is caught."""

import json
import types

import pytest
import torch
from saccade.cli import main
from saccade.demo import attentions, compare
from saccade.demo.attentions import ATTENTIONS
from saccade.demo.model import Config, Decoder, sample
from saccade.demo.train import Run

TINY = dict(layers=2, width=64, heads=4, kv_heads=2, mlp=48, context=64)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    arguments = [
        "demo",
        "--steps",
        "24",
        "--sample",
        "20",
        "--threads",
        "1",
        "--config",
        json.dumps(TINY),
        "--no-plots",
        "--lengths",
        "32",
        "64",
    ]
    status = main([*arguments, "--out", str(out)])
    return status, json.loads((out / "result.json").read_text())


def test_all_train_and_two_alike(demo):
    status, result = demo
    assert status == 0
    ours, theirs = result["runs"]["saccade"], result["runs"]["torch"]
    assert len(ours["loss"]) == len(theirs["loss"]) == result["steps"] == 24
    assert ours["loss"][0] > 5 and ours["loss"][-1] < ours["loss"][0] - 1
    assert ours["early_gap"] <= compare.EARLY_TOLERANCE
    assert ours["parameters"] == theirs["parameters"] and ours["memory"] > 0 and ours["step"] > 0
    for r in result["runs"].values():
        assert r["loss"][-1] < r["loss"][0] - 0.5 and set(r["tokens_per_second"]) == {"32", "64"}
    assert ours["text"] and abs(ours["held_out"] - theirs["held_out"]) < 1e-2


def test_report_is_self_contained(demo, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from saccade.demo import report

    _, result = demo
    path = report.write(result, compare.HEADERS, compare.summary(result), tmp_path)
    page = path.read_text()
    assert path.name == "report.html" and page.count("data:image/png;base64,") == 4
    assert "http" not in page and "saccade softmax" in page
    assert all(
        (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("loss", "steps", "memory", "speed")
    )


def test_diverging_curves_fail(demo):
    _, result = demo
    spoiled = json.loads(json.dumps(result))
    spoiled["runs"]["saccade"]["loss"][3] += 0.1
    assert len(compare.judge(spoiled)) == 1 and compare.judge(json.loads(json.dumps(result))) == []
    spoiled["runs"]["saccade"]["held_out"] += 0.1
    assert len(compare.judge(spoiled)) == 2
    spoiled["runs"]["saccade"]["loss"][3] = float("nan")
    spoiled["runs"]["saccade"]["held_out"] = float("nan")
    assert len(compare.judge(spoiled)) == 2


def test_a_wrong_attention_leaves_the_tolerance():
    """The early tolerance is tight enough to see an attention that is a little wrong."""
    right = ATTENTIONS["torch"].attend
    losses = []
    for attend in (right, lambda q, k, v: right(q * 1.01, k, v)):
        run = Run("torch", Config(**TINY), 0, 24)
        for block in run.model.blocks:
            block.attend = attend
        losses.append([run.step()[0] for _ in range(compare.EARLY)])
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) > compare.EARLY_TOLERANCE


@pytest.mark.parametrize("name", ATTENTIONS)
def test_sampling_with_a_cache_equals_the_whole_context(name):
    torch.manual_seed(0)
    model = Decoder(Config(**TINY), ATTENTIONS[name].attend).double() if name == "torch" else None
    model = model or Decoder(Config(**TINY), ATTENTIONS[name].attend)
    tokens = torch.randint(256, (2, 40))
    with torch.no_grad():
        whole, _ = model(tokens)
        _, past = model(tokens[:, :39])
        last, _ = model(tokens[:, 39:], past)
    torch.testing.assert_close(last[:, 0], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert len(sample(model, b"hello", 5, 0)) == 5


def test_a_new_attention_is_one_line(monkeypatch):
    line = attentions.Attention("the same again", ATTENTIONS["torch"].attend, "torch")
    monkeypatch.setitem(ATTENTIONS, "again", line)
    runs = {name: {"title": a.title, "loss": [1.0], "seconds": [0.1]} for name, a in ATTENTIONS.items()}
    runs = {name: r | {"held_out": 1.0, "memory": 0, "tokens_per_second": {}} for name, r in runs.items()}
    result = {"steps": 1, "runs": runs}
    assert compare.judge(result) == [] and [row[0] for row in compare.summary(result)][-1] == "the same again"


def test_a_run_that_dies_is_reported(monkeypatch):
    options = types.SimpleNamespace(seed=0, threads=1, config='{"layers": "x"}')
    with pytest.raises(SystemExit, match="the run with torch ended with status 1"):
        compare.Worker("torch", 1, options)
