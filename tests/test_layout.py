"""The shape of the repository and of what is installed: include rules, exported symbols, the CMake package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
FOLDERS = ("csrc", "include", "python", "tests", "bench")
CODE = (".h", ".cpp", ".cu", ".cuh")

# What a file may include, by the first rule that matches its path: prefixes of "paths", whole <system headers>.
STD = r"[a-z_0-9]+"
MATH = r"(stdint|stddef|math|float)\.h|c(stdint|stddef|math|float)|type_traits|cuda_(bf|fp)16\.h"
VEC = rf"{STD}(\.h)?"
SYSTEM = rf"{STD}|(sys|asm)/\w+\.h|cpuid\.h|(stdint|math|string|pthread|sched)\.h"
TORCH = rf"{STD}|dlfcn\.h|torch/(csrc/(stable|inductor/aoti_torch)|headeronly)/.+"
RULES = [  # path, project headers, system headers
    (r"include/saccade/", r"saccade/", STD),
    (r"csrc/math/", r"math/", MATH),
    (r"csrc/kernel\.h", r"saccade/", STD),
    (r"csrc/ops/registry\.cpp", r"ops/|kernel\.h|saccade/|(cpu|cuda)/kernels\.h", STD),
    (r"csrc/ops/", r"ops/|kernel\.h|saccade/", STD),
    (r"csrc/cpu/vec/", r"cpu/vec/|math/", VEC),
    (r"csrc/cpu/", r"cpu/|math/|kernel\.h|saccade/", SYSTEM),
    (r"csrc/cuda/sm90/", r"cuda/(?!sm80/)|math/|kernel\.h|saccade/", r"[a-z_0-9./]+"),
    (r"csrc/cuda/", r"cuda/|math/|kernel\.h|saccade/", r"[a-z_0-9./]+"),
    (r"csrc/bindings/torch/", r"bindings/(?!dlpack/)|saccade/", TORCH),
    (r"csrc/bindings/dlpack/", r"bindings/(?!torch/)|saccade/", rf"{STD}|pybind11/.+"),
    (r"csrc/bindings/", r"bindings/(?!torch/|dlpack/)|saccade/", STD),
]

LONG_FILES: dict[str, str] = {  # path: why it may have more than 600 lines
    "tests/emulator/races.cpp": "the layout of the shadow and its hot loops, which are inlined into each other",
    "tests/emulator/test_tensor.cu": "one set of wrapped instructions serves bulk and tensor copies",
}

# Names of papers and products say nothing about what a kernel computes; a citation in a comment is welcome.
PAPER_NAMES = (
    r"flash|sage(attn|attention)|longformer|big_?bird|reformer|linformer|performer|retnet|mamba|delta_?net|"
    r"mini_?ference|streaming_?llm|swin|sparge|transnormer|xformers|cosformer"
)


def files(*suffixes: str, under: tuple[str, ...] = FOLDERS) -> list[Path]:
    return sorted(p for folder in under for p in (ROOT / folder).rglob("*") if p.suffix in suffixes and p.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def include_faults(name: str, text: str) -> list[str]:
    """Includes of the file `name` that RULES forbid. A header of one's own folder may be written without its path."""
    rule = next((r for r in RULES if re.match(r[0], name)), None)
    if rule is None:
        return [f"{name}: no include rule for this folder"]
    faults = []
    for quote, header in re.findall(r'^\s*#\s*include\s*([<"])([^">]+)[">]', text, re.M):
        if quote == '"' and "/" not in header and (ROOT / name).with_name(header).exists():
            continue
        if not (re.match(rule[1], header) if quote == '"' else re.fullmatch(rule[2], header)):
            faults.append(f"{name}: {header}")
    return faults


def test_include_rules():
    sources = files(*CODE, under=("csrc", "include"))
    assert len(sources) > 10
    assert [f for p in sources for f in include_faults(name_of(p), p.read_text())] == []


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("csrc/math/fn.h", '"kernel.h"'),
        ("csrc/math/fn.h", "<vector>"),
        ("csrc/ops/check.cpp", '"cpu/kernels.h"'),
        ("csrc/ops/registry.cpp", '"cpu/isa.h"'),
        ("csrc/ops/check.cpp", "<torch/csrc/stable/tensor.h>"),
        ("csrc/cpu/attention/forward.cpp", '"ops/check.h"'),
        ("csrc/cpu/attention/forward.cpp", "<immintrin.h>"),
        ("csrc/cuda/sm90/a.cu", '"cuda/sm80/a.h"'),
        ("csrc/bindings/torch/a.cpp", '"kernel.h"'),
        ("csrc/bindings/torch/a.cpp", "<ATen/ATen.h>"),
        ("csrc/bindings/torch/a.cpp", '"bindings/dlpack/capsule.h"'),
        ("include/saccade/a.h", '"kernel.h"'),
    ],
)
def test_include_rules_see_a_fault(name, header):
    assert include_faults(name, f"#include {header}\n") != []


def grep(pattern: str, paths: list[Path], flags: int = 0) -> list[str]:
    hits = []
    for path in paths:
        code = without_comments(path.read_text())
        hits += [f"{name_of(path)}: {m.group(0).strip()}" for m in re.finditer(pattern, code, flags)]
    return hits


def test_assembly_only_in_ptx():
    paths = [p for p in files(*CODE, under=("csrc", "include")) if "csrc/cuda/ptx/" not in name_of(p)]
    assert grep(r"\b(asm|__asm__|__asm)\b\s*(volatile|__volatile__|goto)?\s*\(", paths) == []


def test_intrinsics_only_in_vec():
    paths = [p for p in files(*CODE, under=("csrc", "include")) if "csrc/cpu/vec/" not in name_of(p)]
    intrinsics = r"\w*intrin\.h|arm_\w+\.h|\b_mm\d*_\w+|__builtin_(ia32|aarch64|neon)_\w+|\bv(ld|st)\dq?_\w+"
    assert grep(intrinsics, paths) == []


def test_kernels_are_named_by_what_they_compute():
    paths = files(*CODE, under=("csrc",))
    assert grep(PAPER_NAMES, paths, re.I) == []
    assert [name_of(p) for p in paths if re.search(PAPER_NAMES, p.name, re.I)] == []


def test_file_length():
    lengths = {name_of(p): len(p.read_text().splitlines()) for p in files(*CODE, ".py", ".txt", ".cmake")}
    assert {name: n for name, n in lengths.items() if n > 600 and name not in LONG_FILES} == {}
    assert [name for name in LONG_FILES if lengths.get(name, 0) <= 600] == []


# The installed package


@pytest.fixture(scope="module")
def package() -> Path:
    saccade = pytest.importorskip("saccade")
    return Path(saccade.__file__).parent


def output(*command: str | Path, **options) -> str:
    run = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, **options)
    assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def needed(library: Path) -> set[str]:
    return set(re.findall(r"\(NEEDED\).*\[(.+?)\]", output("readelf", "-d", library)))


SYSTEM_LIBRARIES = {
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "libc.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
}


def undefined(library: Path) -> set[str]:
    """Names that `library` wants from others, less those of libc, libstdc++ and libgcc (which carry versions)."""
    names = {line.split()[-1] for line in output("nm", "-D", "--undefined-only", library).splitlines()}
    return {n for n in names if "@" not in n and not re.match(r"__gmon_start__|_ITM_", n)}


def from_saccade(symbol: str) -> bool:
    return re.match(r"_ZN?K?7saccade|_ZT[ISV]N7saccade", symbol) is not None


def test_torch_binding_uses_the_stable_abi_only(package):
    library = package / "libsaccade_torch.so"
    if not library.exists():
        pytest.skip("built without torch")
    wanted = undefined(library)
    assert any(s.startswith("aoti_torch_") or s.startswith("torch_") for s in wanted)
    assert {s for s in wanted if not re.match(r"aoti_torch_|torch_", s) and not from_saccade(s)} == set()
    libraries = {n for n in needed(library) if not n.startswith("ld-linux")}
    assert libraries - SYSTEM_LIBRARIES == {"libtorch_cpu.so", "libsaccade.so"}
    assert "[$ORIGIN]" in output("readelf", "-d", library)


def test_core_is_free_of_frameworks(package):
    library = package / "libsaccade.so"
    assert {n for n in needed(library) if not n.startswith("ld-linux")} <= SYSTEM_LIBRARIES
    assert undefined(library) == set()


def test_core_exports_its_interface_only(package):
    lines = output("nm", "-DC", "--defined-only", package / "libsaccade.so").splitlines()
    strong = {line.split(maxsplit=2)[2] for line in lines if line.split()[1] in "TDBR"}
    functions = {s.split("(")[0].replace("[abi:cxx11]", "") for s in strong}
    names = (
        "workspace_bytes attention_forward attention_backward linear_forward linear_backward linear_step explain "
        "list_kernels cpu_isa version pool_context"
    )
    assert functions == {f"saccade::{n}" for n in names.split()}


def test_package_holds_headers(package):
    installed = {p.name: p.read_text() for p in (package / "include" / "saccade").iterdir()}
    assert installed == {p.name: p.read_text() for p in (ROOT / "include" / "saccade").iterdir()}


def test_find_package(package, tmp_path):
    """A C++ program that knows nothing but the installed package's folder builds, runs, and catches saccade::Error."""
    beside = Path(sys.executable).with_name("cmake")
    cmake = beside if beside.exists() else shutil.which("cmake")
    if cmake is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    environment = {k: v for k, v in os.environ.items() if k not in ("SACCADE_KERNEL", "SACCADE_CPU_ISA")}
    output(cmake, "-S", ROOT / "tests" / "consumer", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={package}", env=environment)
    output(cmake, "--build", tmp_path, env=environment)
    lines = output(tmp_path / "consumer", env=environment).splitlines()
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert lines[0] == f"saccade {version[1]} out 2.0000 lse 0.6931"
    assert lines[1].startswith("error: attention") and "no.such.kernel" in lines[1]
