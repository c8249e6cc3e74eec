"""`python -m saccade`: what it prints, its exit status, and that its own checks can fail."""

import json
import os
import subprocess
import sys
import time

import pytest
import saccade
import torch
from saccade.bench import kit
from saccade.bench.cases import TILES, Case, lane, verify
from saccade.cli import check, main


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "saccade", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
    )


def test_info_names_versions_instruction_set_and_reasons(capsys):
    assert main(["info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["version"] == saccade.__version__ and info["cpu_isa"] and info["torch"] == torch.__version__
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for kernel in info["kernels"]:
        assert kernel["name"] in text and (kernel["reason"] or "can run") in text
    assert "cpu.reference.attention" in text and "first choice" in text


def test_info_shows_a_forced_instruction_set():
    run = command("info", "--json", SACCADE_CPU_ISA="base")
    assert run.returncode == 0, run.stderr
    info = json.loads(run.stdout)
    assert info["cpu_isa"] == "base" and info["environment"]["SACCADE_CPU_ISA"] == "base"


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("bench", "--bars", "--only", "nonsense")])
def test_wrong_arguments_exit_with_words(arguments):
    run = command(*arguments)
    assert run.returncode != 0 and run.stderr.strip() and "Traceback" not in run.stderr


def test_check_passes_here(capsys):
    assert main(["check"]) == 0
    text = capsys.readouterr().out
    assert " 0 failed" in text and "cpu.base.attention" in text


def test_check_sees_a_wrong_kernel(monkeypatch, capsys):
    honest = check.results

    def wrong(kernel, qkv, options):
        found = honest(kernel, qkv, options)
        return found if kernel == check.REFERENCE else found | {"dk": found["dk"] * 1.05}

    monkeypatch.setattr(check, "results", wrong)
    monkeypatch.setattr(check, "CASES", {n: check.CASES[n] for n in ("plain", "causal, GQA")})
    assert main(["check", "--kernel", "cpu.base.attention"]) == 1
    assert "FAILED cpu.base.attention, plain, float32" in capsys.readouterr().out


def test_check_sees_nan_and_misplaced_infinities():
    x = torch.tensor([1.0, float("-inf")])
    assert check.error({"lse": torch.tensor([1.0, 2.0])}, {"lse": x})[0] == float("inf")
    assert check.error({"lse": torch.tensor([float("nan"), float("-inf")])}, {"lse": x})[0] == float("inf")
    assert check.error({"lse": x}, {"lse": x})[0] == 0


def test_check_refuses_an_unknown_kernel():
    with pytest.raises(SystemExit, match="got nonsense, wanted one of .*cpu.reference.attention"):
        main(["check", "--kernel", "nonsense"])


def test_bench_writes_table_json_png_and_html(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    from saccade.cli import bench

    small = [Case(64, 16, Hq=2, Hk=1, causal=True, backward=True), Case(70, 16, window=(9, 0)), Case(1, 16, Nk=300)]
    monkeypatch.setattr(bench, "cases", lambda quick: small)
    assert main(["bench", "--quick", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [r["name"] for r in rows] == [c.name for c in small] and all(r["name"] in text for r in rows)
    assert rows[0]["ratio"] > 0 and rows[1]["ratio"] is None and rows[2]["memory"]
    assert all(0 < r["share"] and r["error"] < 1e-5 for r in rows)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "bench.html").read_text()
    assert "data:image/png;base64," in page and "http" not in page


CASES = [
    Case(150, 16, Hq=2, Hk=2),
    Case(150, 16, Hq=4, Hk=2, causal=True),
    Case(100, 16, Nk=230, causal=True),
    Case(200, 16, window=(30, 4)),
    Case(200, 16, window=(30, 4), causal=True, alibi=True),
    Case(0, 16, Hq=2, Hk=2, lengths=(130, 1, 100), causal=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_bench_counts_the_work_and_checks_the_result(case):
    assert verify(Case(**vars(case) | {"backward": True})) < 1e-5
    pairs, tiles, tile = 0, 0, TILES[saccade.info()["cpu_isa"]]
    for nq, nk in case.sequences:
        p, j = torch.arange(nq)[:, None] + nk - nq, torch.arange(nk)[None]
        left, right = case.window or (nk + nq, nk + nq)
        seen = (j >= p - left) & (j <= p + right) & ((j <= p) | (not case.causal))
        pairs += int(seen.sum())
        tiles += sum(bool(block.any()) for rows in seen.split(tile[0]) for block in rows.split(tile[1], 1))
    assert case.pairs == case.Hq * pairs and case.tiles == case.Hq * tiles
    assert case.flops == 4 * case.D * case.pairs


def test_bench_refuses_a_wrong_result(monkeypatch):
    monkeypatch.setattr(Case, "ours", lambda self, q, k, v: self.rival(q, k, v) * 1.001)
    with pytest.raises(RuntimeError, match="got an error of"):
        verify(Case(64, 16))


def test_lane_gives_output_and_gradients():
    case = Case(33, 16, Hq=4, Hk=2, backward=True)
    assert [tuple(t.shape) for t in lane(case, case.rival)()] == [(1, 4, 33, 16)] * 2 + [(1, 2, 33, 16)] * 2


def test_alternate_takes_turns_and_medians():
    calls = []
    times = iter(range(1, 100))

    def slow(name, own=None):
        calls.append(name)
        time.sleep(kit.SHORT)
        return own and float(next(times))

    timing = kit.alternate({"a": lambda: slow("a"), "b": lambda: slow("b", own=True)}, budget=0, fewest=3)
    assert calls == ["a", "a", "b", "b"] + ["a", "b", "b", "a", "a", "b"]  # two calls each to warm up
    assert timing.rounds == 3 and timing.seconds["b"] == 4.0 and timing.seconds["a"] >= kit.SHORT


def test_short_lanes_are_called_several_times_a_turn():
    calls = []
    seconds = kit.alternate({"a": lambda: calls.append(0)}, budget=0, fewest=1).seconds
    assert len(calls) == 2 + 1 + 50 and seconds["a"] < kit.SHORT


def test_roofline_is_measured_and_refuses_unknown_sets():
    from saccade.bench import roofline

    isa = saccade.info()["cpu_isa"]
    assert roofline.fma(isa, 1, 10_000) > 1e8 and roofline.read(isa, 2, 8 << 20) > 1e7
    with pytest.raises(ValueError, match="isa: got 'nonsense'"):
        roofline.fma("nonsense", 1)
