"""The attention cases that tests and bench share: what to compute (`Case`), and its inputs (`make`)."""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass

import torch

FLOAT_INPUTS = ("query", "key", "value", "bias", "alibi_slopes", "temperature", "sinks", "head_gate", "score_bias",
                "relative_keys", "relative_bias")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One problem. Sizes are per sequence; `lengths_q`/`lengths_k` make it packed and then replace B, Nq and Nk."""

    name: str
    score: str = "softmax"  # sigmoid, relu, relu2, identity
    score_bias: str | None = None  # neg_log_n, number, heads
    B: int = 1
    Hq: int = 2
    Hk: int = 1
    Nq: int = 17
    Nk: int = 17
    D: int = 16
    Dv: int = 16
    dtype: str = "float32"
    causal: bool = False
    window: int | tuple[int, int] | None = None
    scale: float | None = None
    softcap: float = 0.0
    bias: str | None = None  # full, batch, head, query, keys, bool, bool_keys (padding), neginf
    bias_dtype: str = "float32"
    alibi: str | None = None  # head, batch
    temperature: str | None = None  # full, head, query
    sinks: bool = False
    head_gate: str | None = None  # head, token
    relative: str | None = None  # keys, bias, both; or keys1, bias1, both1: one table for all heads
    reach: int = 8  # of the relative tables, their P
    dropout_p: float = 0.0
    seed: int = 0
    lengths_q: tuple[int, ...] | None = None
    lengths_k: tuple[int, ...] | None = None
    layout: str = "contiguous"  # contiguous, bnhd, sliced, broadcast
    values: str = "normal"  # normal, outliers (1 in 1000 is N(0, 100²)), large (queries x 30)
    tags: frozenset[str] = frozenset()

    @property
    def packed(self) -> bool:
        return self.lengths_q is not None

    def __str__(self) -> str:
        return self.name


@dataclass
class Inputs:
    """`tensors` holds q, k, v and every present parameter by name; `options` the rest of the call."""

    case: Case
    tensors: dict[str, torch.Tensor]
    options: dict
    dout: torch.Tensor
    dlse: torch.Tensor

    @property
    def qkv(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.tensors["query"], self.tensors["key"], self.tensors["value"]

    @property
    def kwargs(self) -> dict:
        """Keyword arguments of `softmax_attention`, or of `attention` for a case with another score map."""
        return {k: t for k, t in self.tensors.items() if k not in ("query", "key", "value")} | self.options

    def to(self, device: str) -> Inputs:
        """A copy on another device with its memory layout kept; itself where nothing moves."""
        if self.dout.device.type == device:
            return self
        move = lambda t: torch.as_strided(_storage(t).to(device), t.shape, t.stride(), t.storage_offset())  # noqa: E731
        tensors = {k: move(t) for k, t in self.tensors.items()}
        return dataclasses.replace(self, tensors=tensors, dout=move(self.dout), dlse=move(self.dlse))

    def requiring_grad(self) -> Inputs:
        """A copy whose float tensors are leaves with their memory layout kept."""
        tensors = {k: t.detach().requires_grad_(True) if t.is_floating_point() else t for k, t in self.tensors.items()}
        return dataclasses.replace(self, tensors=tensors)


def _storage(t: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())


def _laid_out(t: torch.Tensor, layout: str) -> torch.Tensor:
    """The values of contiguous `t` (..., H, N, D) or packed (T, H, D) in another memory order."""
    if layout == "contiguous":
        return t
    if layout == "bnhd":  # memory order (B, N, H, D), or (H, T, D) when packed
        return t.transpose(-3, -2).contiguous().transpose(-3, -2)
    if layout == "sliced":  # a window of a larger buffer, head_dim not unit stride, unaligned start
        big = torch.full([n + 2 for n in t.shape[:-1]] + [2 * t.shape[-1] + 3], float("nan"), dtype=t.dtype)
        view = big[tuple(slice(1, n + 1) for n in t.shape[:-1]) + (slice(3, 3 + 2 * t.shape[-1], 2),)]
        view.copy_(t)
        return view
    if layout == "broadcast":  # one row of memory for all of the leading axis, and one for all heads
        return t[:1, :1].expand(t.shape) if t.dim() == 4 else t[:, :1].expand(t.shape)
    raise ValueError(layout)


def make(case: Case, device: str = "cpu") -> Inputs:
    """Inputs of `case`, the same on every machine and in every process."""
    g = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    dtype = getattr(torch, case.dtype)
    param = torch.float64 if dtype == torch.float64 else torch.float32

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def operand(*shape: int) -> torch.Tensor:
        t = randn(*shape)
        if case.values == "outliers":
            t = torch.where(torch.rand(shape, generator=g, dtype=torch.float64) < 1e-3, 100 * randn(*shape), t)
        return t

    B, H = case.B, case.Hq
    nq, nk = case.Nq, case.Nk
    options: dict = {}
    if case.packed:
        B, nq, nk = len(case.lengths_q), max(case.lengths_q, default=0), max(case.lengths_k, default=0)
        for name, lengths in (("cu_seqlens_q", case.lengths_q), ("cu_seqlens_k", case.lengths_k)):
            options[name] = torch.tensor((0, *lengths)).cumsum(0).to(torch.int32).to(device)
        tq, tk = sum(case.lengths_q), sum(case.lengths_k)
        shapes = (tq, H, case.D), (tk, case.Hk, case.D), (tk, case.Hk, case.Dv)
        rows = (tq, H)
    else:
        shapes = (B, H, nq, case.D), (B, case.Hk, nk, case.D), (B, case.Hk, nk, case.Dv)
        rows = (B, H, nq)
    tensors = {}
    for name, shape in zip(("query", "key", "value"), shapes, strict=True):
        t = operand(*shape)
        if name == "query" and case.values == "large":
            t = 30 * t
        tensors[name] = _laid_out(t.to(dtype), case.layout)
    if case.bias:
        shape = {
            "full": (B, H, nq, nk),
            "batch": (B, 1, nq, nk),
            "head": (1, H, nq, nk),
            "query": (nq, nk),
            "keys": (B, 1, 1, nk),
            "bool": (B, 1, nq, nk),
            "bool_keys": (B, 1, 1, nk),
            "neginf": (B, H, nq, nk),
        }[case.bias]
        bias = randn(*shape)
        if case.bias == "bool":  # row 1 sees nothing
            tensors["bias"] = bias > -0.7
            tensors["bias"][..., 1:2, :] = False
        elif case.bias == "bool_keys":
            tensors["bias"] = bias > -0.7
        else:
            if case.bias == "neginf":
                bias[bias < -0.7] = float("-inf")
                bias[..., 1:2, :] = float("-inf")
            tensors["bias"] = bias.to(dtype if case.bias_dtype == "same" else param)
    if case.alibi:
        slopes = 2.0 ** (-8 * torch.arange(1, H + 1, dtype=torch.float64) / max(H, 1))
        tensors["alibi_slopes"] = (slopes if case.alibi == "head" else slopes + randn(B, H).abs() * 0.1).to(param)
    if case.temperature:
        shape = rows
        if case.temperature == "head":
            shape = (1, H) if case.packed else (H, 1)
        if case.temperature == "query":
            shape = (rows[0], 1) if case.packed else (1, 1, nq)
        tensors["temperature"] = torch.exp(0.3 * randn(*shape)).to(param)
    if case.sinks:
        tensors["sinks"] = randn(H).to(param)
    if case.head_gate:
        tensors["head_gate"] = (1 + 0.5 * randn(*((H,) if case.head_gate == "head" else rows))).to(param)
    if case.score != "softmax":
        options["score"] = case.score
    if case.score_bias == "heads":
        tensors["score_bias"] = (-1 + randn(H)).to(param)
    elif case.score_bias:
        options["score_bias"] = -1.5 if case.score_bias == "number" else case.score_bias
    if case.relative:
        rows_of_table = (1 if case.relative.endswith("1") else H, 2 * case.reach + 1)
        if case.relative.startswith(("keys", "both")):
            tensors["relative_keys"] = _laid_out(randn(*rows_of_table, case.D).to(dtype), case.layout)
        if case.relative.startswith(("bias", "both")):
            tensors["relative_bias"] = (3 * randn(*rows_of_table)).to(param)
    for name in ("causal", "window", "scale", "softcap", "dropout_p"):
        if getattr(case, name) != Case.__dataclass_fields__[name].default:
            options[name] = getattr(case, name)
    if case.dropout_p:
        options["seed"] = case.seed
    return Inputs(
        case,
        {k: t.to(device) for k, t in tensors.items()},
        options,
        dout=randn(*rows, case.Dv).to(dtype).to(device),
        dlse=randn(*rows).to(param).to(device),
    )


def _cases() -> list[Case]:
    out: list[Case] = []

    def add(name: str, *, also: tuple[str, ...] = (), tags: tuple[str, ...] = (), **kw) -> None:
        """The case in its dtype (float32 unless named), and again in the dtypes of `also`."""
        for dtype in (kw.pop("dtype", "float32"), *also):
            out.append(Case(f"{name}-{dtype}", dtype=dtype, tags=frozenset(tags), **kw))

    low = ("bfloat16", "float16")
    for n in (0, 1, 2, 15, 16, 17, 63, 64, 65, 97, 129, 200, 259):
        add(f"n{n}", B=2, Nq=n, Nk=n, D=32, Dv=24, also=("bfloat16",) if n in (17, 129) else ())
        add(f"n{n}-causal", B=1, Nq=n, Nk=n, D=24, Dv=32, causal=True, also=("float16",) if n in (65, 200) else ())

    dims = (1, 3, 8, 16, 33, 40, 64, 72, 80, 96, 100, 128, 160, 192, 256)
    for d, dv in zip(dims, (40, 1, 3, 256, 96, 64, 80, 33, 128, 8, 192, 100, 72, 16, 160), strict=True):
        kw = dict(Hq=2, Hk=2, Nq=33, Nk=70, D=d, Dv=dv, causal=True)
        add(f"d{d}x{dv}", also=low if d in (1, 33, 64, 100, 256) else (), **kw)
    for d in (64, 128, 256):
        add(f"d{d}", Nq=66, Nk=66, D=d, Dv=d, also=("bfloat16",))

    add("gqa8x2", B=2, Hq=8, Hk=2, Nq=20, Nk=33, causal=True, also=low)
    add("gqa6x3", Hq=6, Hk=3, Nq=70, Nk=40, D=40, Dv=24)
    add("mqa5x1", B=2, Hq=5, Hk=1, Nq=19, Nk=70, causal=True)
    add("mha3", B=3, Hq=3, Hk=3, Nq=31, Nk=31)

    for nq, nk in ((65, 129), (129, 65), (200, 17), (17, 300), (5, 64), (64, 5), (40, 1)):
        for causal in (False, True):  # causal with Nq > Nk: the first Nq - Nk rows are empty
            also = ("bfloat16",) if (nq, causal) == (200, True) else ()
            add(f"q{nq}k{nk}{'-causal' * causal}", Nq=nq, Nk=nk, D=20, Dv=28, causal=causal, also=also)

    sizes = ((1, 3000, 4, 1), (2, 777, 4, 2), (5, 1030, 2, 2), (16, 1500, 4, 1), (1, 65, 8, 2), (3, 2049, 2, 1))
    for nq, nk, hq, hk in sizes:
        kw = dict(Nq=nq, Nk=nk, Hq=hq, Hk=hk, D=64, Dv=48, causal=True, tags=("decode",))
        add(f"decode{nq}x{nk}", also=low if nk in (3000, 1500) else (), **kw)
    add("decode-plain", B=2, Nq=4, Nk=1100, D=40, Dv=33, tags=("decode",))
    add("decode-d128", Hq=8, Hk=2, Nq=1, Nk=1025, D=128, Dv=128, causal=True, also=("bfloat16",), tags=("decode",))
    add("decode-window", Nq=8, Nk=2000, D=32, Dv=32, causal=True, window=(300, 0), tags=("decode",))
    add("decode-sinks-cap", Nq=2, Nk=900, D=32, Dv=32, sinks=True, softcap=5.0, tags=("decode",))
    add("decode-padding", B=3, Hq=4, Hk=2, Nq=1, Nk=800, D=32, Dv=32, bias="bool_keys", tags=("decode",))
    add(
        "decode-all", B=2, Hq=4, Hk=2, Nq=3, Nk=1200, D=48, Dv=40, causal=True, window=(900, 0), softcap=8.0,
        bias="head", alibi="head", temperature="full", sinks=True, head_gate="token", dropout_p=0.2, seed=5,
        also=low, tags=("decode",),
    )  # fmt: skip
    add(
        "decode-varlen", Hq=4, Hk=2, D=32, Dv=32, lengths_q=(1, 2, 0, 1, 9), lengths_k=(700, 31, 40, 0, 1500),
        causal=True, also=("bfloat16",), tags=("decode",),
    )  # fmt: skip

    base = dict(B=2, Hq=4, Hk=2, Nq=37, Nk=70, D=24, Dv=20)
    for kind in ("full", "batch", "head", "query", "keys", "bool", "bool_keys", "neginf"):
        add(f"bias-{kind}", bias=kind, also=low if kind in ("full", "bool") else (), **base)
        add(f"bias-{kind}-causal", bias=kind, causal=True, **base)
    for kind in ("full", "keys"):
        add(f"bias-{kind}-same", dtype="bfloat16", also=("float16",), bias=kind, bias_dtype="same", **base)
    for name, kw in {
        "scale": dict(scale=0.7),
        "scale-negative": dict(scale=-0.2),
        "scale-zero": dict(scale=0.0),
        "softcap": dict(softcap=2.0),
        "softcap50": dict(softcap=50.0),
        "alibi": dict(alibi="head"),
        "alibi-batch": dict(alibi="batch", causal=True),
        "temperature": dict(temperature="full"),
        "temperature-head": dict(temperature="head"),
        "temperature-query": dict(temperature="query", causal=True),
        "sinks": dict(sinks=True),
        "sinks-causal": dict(sinks=True, causal=True),
        "gate-head": dict(head_gate="head"),
        "gate-token": dict(head_gate="token", causal=True),
        "dropout": dict(dropout_p=0.3, seed=1234),
        "dropout-causal": dict(dropout_p=0.1, seed=2**40 + 7, causal=True),
        "window0": dict(window=0),
        "window5": dict(window=5),
        "window-left": dict(window=(7, -1)),
        "window-right": dict(window=(-1, 4)),
        "window-right0": dict(window=(-1, 0)),
        "window-causal": dict(window=(9, 3), causal=True),
        "window-wide": dict(window=(1000, 1000)),
    }.items():
        also = low if name in ("softcap", "alibi", "temperature", "sinks", "gate-token", "dropout") else ()
        add(name, also=also, **base, **kw)
    add("window-long", Nq=259, Nk=259, D=16, Dv=16, window=(30, 0), also=("bfloat16",))
    add("window-long-two", Nq=200, Nk=259, D=16, Dv=16, window=(64, 17))
    add("window-empty", Nq=90, Nk=20, window=(10, 5))  # rows before the keys see nothing
    add("sinks-empty", Nq=40, Nk=20, causal=True, sinks=True)

    every = dict(
        B=2, Hq=4, Hk=2, Nq=67, Nk=90, D=40, Dv=24, causal=True, window=(50, 3), scale=0.3, softcap=4.0, alibi="head",
        temperature="full", sinks=True, head_gate="token", dropout_p=0.25, seed=99,
    )  # fmt: skip
    add("all", bias="full", also=low, **every)
    add("all-bool", bias="bool", also=("bfloat16",), **every)
    add("all-neginf", bias="neginf", **every)
    add("softcap-bias-temperature", softcap=3.0, bias="full", temperature="head", **base)
    add("alibi-window-sinks", alibi="head", window=(20, 0), sinks=True, **base)
    add("gate-dropout", head_gate="token", dropout_p=0.5, seed=3, **base)

    for layout in ("bnhd", "sliced", "broadcast"):
        kw = dict(B=2, Hq=4, Hk=2, Nq=35, Nk=50, D=24, Dv=40, causal=True, layout=layout)
        add(f"layout-{layout}", also=low, **kw)
        add(f"layout-{layout}-decode", tags=("decode",), **{**kw, "Nq": 2, "Nk": 700})
    for values in ("outliers", "large"):
        add(f"values-{values}", Hq=2, Hk=2, Nq=130, Nk=150, D=64, Dv=64, values=values, also=low)
        add(f"values-{values}-causal", Hq=2, Hk=2, Nq=99, Nk=99, D=33, Dv=40, values=values, causal=True, also=low)

    lengths = dict(Hq=4, Hk=2, D=24, Dv=32, lengths_q=(5, 0, 64, 17, 1), lengths_k=(9, 3, 65, 0, 1))
    add("varlen", also=low, **lengths)
    add("varlen-causal", causal=True, also=low, **lengths)
    add("varlen-window", window=(8, 2), **lengths)
    add("varlen-bnhd", causal=True, layout="bnhd", **lengths)
    add("varlen-long", Hq=2, Hk=1, D=16, Dv=16, lengths_q=(130, 3, 259), lengths_k=(130, 40, 259), causal=True)
    add(
        "varlen-all", causal=True, window=(30, 0), softcap=6.0, bias="full", alibi="batch", temperature="full",
        sinks=True, head_gate="token", dropout_p=0.2, seed=17, also=low, **lengths,
    )  # fmt: skip
    add("varlen-rows", bias="bool", temperature="query", head_gate="head", alibi="head", **lengths)

    for name, kw in {
        "keys": dict(relative="keys"),
        "bias": dict(relative="bias"),
        "both": dict(relative="both", causal=True),
        "keys1": dict(relative="keys1", causal=True, reach=20),
        "bias1": dict(relative="bias1", reach=3),
        "both1": dict(relative="both1", window=(30, 4)),
        "reach0": dict(relative="both", reach=0),
        "reach1": dict(relative="both", reach=1, causal=True),
        "reach-all": dict(relative="both", reach=69),
        "reach-beyond": dict(relative="both", reach=300, causal=True),
        "scale": dict(relative="both", scale=-0.3),
        "all": dict(relative="both", causal=True, window=(50, 3), softcap=4.0, bias="full", alibi="head",
                    temperature="full", sinks=True, head_gate="token", dropout_p=0.25, seed=98, reach=11),
        "sliced": dict(relative="keys", layout="sliced"),
    }.items():  # fmt: skip
        also = low if name in ("keys", "bias", "both", "all") else ()
        add(f"relative-{name}", also=also, **base, **kw)
    for n, reach, causal in ((64, 31, False), (65, 64, True), (129, 40, False), (259, 5, True), (259, 128, False)):
        add(f"relative-n{n}-p{reach}", Nq=n, Nk=n, relative="both", reach=reach, causal=causal, D=16, Dv=16)
    add("relative-far", Hq=1, Hk=1, Nq=70, Nk=1200, D=16, Dv=8, relative="both", reach=600, also=("bfloat16",))
    add("relative-q90k20", Hq=2, Nq=90, Nk=20, relative="both", reach=9, causal=True)
    for d in (1, 33, 100, 256):
        add(f"relative-d{d}", Hq=2, Hk=2, Nq=40, Nk=70, D=d, Dv=24, relative="both", causal=True, also=("bfloat16",))
    kw = dict(Hq=4, Hk=2, D=40, Dv=24, tags=("decode",))
    add("relative-decode", Nq=1, Nk=700, relative="both", reach=100, causal=True, also=low, **kw)
    add("relative-decode3", B=2, Nq=3, Nk=1200, relative="both1", reach=1200, window=(900, 1), **kw)
    add("relative-decode-bias", Nq=2, Nk=65, relative="bias", reach=7, **kw)
    add("relative-varlen", relative="both", causal=True, also=("bfloat16",), **lengths)
    add("relative-varlen-all", relative="keys1", reach=30, window=(20, 7), temperature="full", softcap=6.0, **lengths)
    add("relative-varlen-long", Hq=2, Hk=1, D=16, Dv=16, lengths_q=(130, 3, 259), lengths_k=(130, 640, 259),
        relative="both", reach=50)  # fmt: skip

    empty = dict(B=2, Hq=2, Hk=1, D=8, Dv=12)
    add("relative-zero-keys", Nq=5, Nk=0, relative="both", **empty)
    add("relative-zero-queries", Nq=0, Nk=5, relative="both1", **empty)
    add("relative-zero-batch", relative="both", **{**empty, "B": 0})
    add("zero-keys", Nq=5, Nk=0, **empty)
    add("zero-keys-sinks", Nq=5, Nk=0, sinks=True, head_gate="token", temperature="full", **empty)
    add("zero-queries", Nq=0, Nk=5, bias="keys", sinks=True, **empty)
    add("zero-batch", **{**empty, "B": 0})
    add("zero-packed", Hq=2, Hk=1, lengths_q=(0, 0), lengths_k=(0, 0))
    add("zero-sequences", Hq=2, Hk=1, lengths_q=(), lengths_k=())

    add("double", dtype="float64", B=2, Hq=4, Hk=2, Nq=20, Nk=33, D=12, Dv=7, causal=True)
    add("double-all", dtype="float64", bias="full", **every)
    add("double-varlen", dtype="float64", causal=True, alibi="batch", **lengths)
    add("double-relative", dtype="float64", Hq=4, Hk=2, Nq=20, Nk=33, D=12, Dv=7, causal=True, relative="both",
        temperature="full")  # fmt: skip

    # The other maps differ in a row's arithmetic only: a part of the list for each, without sinks.
    plain = {c.name: c for c in out if c.dtype == "float32" and "bench" not in c.tags}
    narrow = (
        "n17 n65-causal gqa8x2 q200k17-causal bias-neginf bias-bool-causal softcap temperature-head dropout all".split()
    )
    narrow += "relative-both relative-all relative-decode relative-varlen".split()
    narrow += "decode5x1030 values-outliers varlen-causal varlen-all zero-keys zero-sequences layout-sliced".split()
    wide = narrow + [
        "n0", "n129", "n259", "d1x40", "d33x96", "d100x192", "d256x160", "d128", "mqa5x1", "q65k129-causal", "q40k1",
        "decode1x3000", "decode16x1500", "decode-all", "decode-varlen", "bias-full", "bias-head", "bias-keys-causal",
        "scale", "alibi", "alibi-batch", "temperature", "gate-head", "gate-token", "window-left", "window-causal",
        "window-long", "window-empty", "all-bool", "values-large", "varlen-rows", "zero-queries", "zero-batch",
        "scale-negative", "scale-zero",
    ]  # fmt: skip
    biases = ("neg_log_n", "number", "heads", None)
    for score, names in {"sigmoid": wide, "relu": narrow, "relu2": narrow, "identity": narrow}.items():
        for at, name in enumerate(names):
            for dtype in (
                "float32",
                *(low if name in ("gqa8x2", "all", "varlen-all", "d100x192", "decode-all") else ()),
            ):
                case = dataclasses.replace(plain[f"{name}-float32"], name=f"{score}-{name}-{dtype}", dtype=dtype)
                out.append(dataclasses.replace(case, score=score, score_bias=biases[at % 4], sinks=False))
    for name in ("double", "double-all"):
        case = next(c for c in out if c.name == f"{name}-float64")
        case = dataclasses.replace(
            case, name=f"sigmoid-{name}-float64", score="sigmoid", score_bias="heads", sinks=False
        )
        out.append(case)

    for d in (64, 128):
        kw = dict(Hq=8, Hk=8, Nq=2048, Nk=2048, D=d, Dv=d, tags=("bench",), also=("bfloat16",))
        add(f"bench-8x2048x{d}", **kw)
        add(f"bench-8x2048x{d}-causal", causal=True, **kw)
    kw = dict(Hq=8, Hk=8, Nq=512, Nk=512, D=64, Dv=64, tags=("bench",), also=("bfloat16",))
    add("bench-8x512x64", **kw)
    kw |= dict(Nq=2048, Nk=2048)
    add("bench-alibi", alibi="head", causal=True, **kw)
    add("bench-relative64", relative="both", reach=64, **kw)
    add("bench-relative2048", relative="both", reach=2048, **kw)
    add("bench-window256", window=(256, 0), **kw)
    add("bench-varlen", causal=True, lengths_q=(1024, 512, 256, 256), lengths_k=(1024, 512, 256, 256), **kw)
    kw = dict(Hq=32, Hk=8, Nq=1, Nk=32768, D=128, Dv=128, tags=("bench", "decode"), also=("bfloat16",))
    add("bench-decode32k", causal=True, **kw)
    return out


CASES: list[Case] = _cases()
BY_NAME: dict[str, Case] = {c.name: c for c in CASES}
assert len(BY_NAME) == len(CASES)


def select(*, tag: str | None = None, without: str | None = "bench", dtype: str | None = None) -> list[Case]:
    """The cases with `tag`, without the tag `without`, of `dtype`; None does not restrict."""
    return [
        c for c in CASES
        if (tag is None or tag in c.tags) and (without is None or without not in c.tags) and dtype in (None, c.dtype)
    ]  # fmt: skip
