"""What the compiler made of the CUDA kernels, and what the emulator counted: no GPU needed.

    python bench/ptx_report.py                              # the newest libsaccade.so under build/
    python bench/ptx_report.py build/…/forward.cu.o --full  # every class of instructions
    SACCADE_EMULATOR_COUNTS=counts.json … && python bench/ptx_report.py --counts counts.json
    python bench/ptx_report.py --check                      # fails on spills, local memory in loops, narrow loads

smem is static shared memory; with PTX of sm_90 on, 1 KiB of it is the system's. A main loop contains mma instructions.
cuobjdump and nvdisasm come from PATH or from PyPI: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MMA = {"HMMA", "IMMA", "QMMA", "DMMA", "BMMA", "OMMA", "HGMMA", "QGMMA", "IGMMA", "BGMMA"}
FAMILIES = {
    "float": "FADD FMUL FFMA FMNMX FMNMX3 FSETP FSET FSEL FCHK FRND FSWZADD FADD32I FMUL32I FFMA32I FADD2 FMUL2 FFMA2",
    "double": "DADD DMUL DFMA DSETP",
    "half": "HADD2 HMUL2 HFMA2 HMNMX2 HSETP2 HSET2 HADD2_32I HMUL2_32I HFMA2_32I VHMNMX",
    "integer": "IADD3 IADD IMAD IMUL IMNMX VIMNMX LOP3 LOP SHF SHL SHR LEA PRMT ISETP IABS IDP SGXT BMSK POPC FLO BREV "
    "UIADD3 UIMAD ULOP3 USHF ULEA UPRMT UISETP USGXT UBMSK UPOPC UFLO UBREV VIADD VIADDMNMX VABSDIFF IADD32I LOP32I",
    "convert": "F2F F2I I2F F2FP I2FP F2IP I2I FRND UF2FP",
    "mufu": "MUFU",
    "move": "MOV MOV32I SEL USEL UMOV R2UR R2P P2R PLOP3 UPLOP3 CS2R S2R S2UR VOTEU UP2UR R2UP",
    "shuffle": "SHFL VOTE MATCH REDUX CREDUX ELECT",
    "barrier": "BAR B2R SYNCS WARPSYNC DEPBAR LDGDEPBAR MEMBAR FENCE ERRBAR CCTL UCGABAR_ARV UCGABAR_WAIT WARPGROUP "
    "WARPGROUPDEPBAR ARRIVES ACQBULK",
    "atomic": "ATOM ATOMG ATOMS RED REDG REDS ATOMIC",
    "constant": "LDC ULDC LDCU",
    "bulk": "UTMALDG UTMASTG UTMAREDG UTMAPF UBLKCP UBLKRED UBLKPF UTMACCTL UTMACMDFLUSH",
    "control": "BRA BRX BRXU JMP EXIT RET CALL BSSY BSYNC BREAK NOP NANOSLEEP YIELD BMOV KILL RPCMOV USETMAXREG BPT",
}
CLASS_OF = {op: family for family, ops in FAMILIES.items() for op in ops.split()}
WIDE = {"LDG": "ldg", "LD": "ldg", "LDGSTS": "cp.async", "STG": "stg", "ST": "stg", "LDS": "lds", "STS": "sts"}
WIDTH = {"U8": 1, "S8": 1, "8": 1, "U16": 2, "S16": 2, "16": 2, "64": 8, "128": 16, "256": 32}


@dataclasses.dataclass
class Instruction:
    address: int
    op: str
    mods: list[str]
    text: str

    @property
    def width(self) -> int:
        return next((WIDTH[m] for m in self.mods if m in WIDTH), 4)

    @property
    def family(self) -> str:
        if self.op in MMA:
            return "mma"
        if self.op in WIDE:
            return f"{WIDE[self.op]}.{self.width}"
        if self.op in ("LDSM", "STSM", "LDL", "STL"):
            return self.op.lower()
        return CLASS_OF.get(self.op, self.op)

    @property
    def global_read(self) -> bool:
        return self.op in ("LDG", "LD", "LDGSTS")

    @property
    def local(self) -> bool:
        return self.op in ("LDL", "STL")

    @property
    def target(self) -> int | None:
        """Where a jump goes, or where threads that diverge here meet again (BSSY)."""
        if self.op not in ("BRA", "BSSY", "CALL", "JMP"):
            return None
        found = re.search(r"(0x[0-9a-f]+)\s*$", self.text)
        return int(found.group(1), 16) if found else None

    @property
    def falls_through(self) -> bool:
        conditional = self.text.startswith("@") or "DIV" in self.mods or re.search(r"\bU?P\d", self.text) is not None
        return self.op not in ("BRA", "JMP", "EXIT", "RET", "BRX", "BRXU") or conditional


@dataclasses.dataclass(eq=False)
class Kernel:
    name: str
    arch: str
    registers: int = 0
    stack: int = 0
    shared: int = 0
    code: list[Instruction] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def loops(self) -> list[list[Instruction]]:
        """Natural loops, one a header: a backward branch alone is none, ptxas places rare paths behind the code."""
        if not self.code:
            return []
        ends = ("BRA", "JMP", "EXIT", "RET", "BRX", "BRXU", "BSYNC", "CALL")
        meets: dict[str, set[int]] = collections.defaultdict(set)
        for i in self.code:
            if i.op == "BSSY" and i.target is not None:
                meets[re.findall(r"\bB\d+", i.text)[0]].add(i.target)
        leaders = {self.code[0].address} | {i.target for i in self.code if i.target is not None}
        leaders |= {after.address for i, after in itertools.pairwise(self.code) if i.op in ends}
        blocks: list[list[Instruction]] = []
        for i in self.code:
            if i.address in leaders:
                blocks.append([])
            blocks[-1].append(i)
        index = {block[0].address: n for n, block in enumerate(blocks)}

        def successors(n: int) -> set[int]:
            last, following = blocks[n][-1], {n + 1} & set(range(len(blocks)))
            if last.op == "BSYNC":  # goes on where its BSSY says
                targets = {index[t] for t in meets[re.findall(r"\bB\d+", last.text)[0]]}
                return following if following & targets else targets
            jump = {index[last.target]} if last.op != "BSSY" and last.target in index else set()
            return jump | (following if last.falls_through else set())

        after = [successors(n) for n in range(len(blocks))]
        before: list[set[int]] = [set() for _ in blocks]
        for n, nexts in enumerate(after):
            for m in nexts:
                before[m].add(n)
        reached, todo = {0}, [0]
        while todo:
            new = after[todo.pop()] - reached
            reached |= new
            todo += new
        dominators = {n: reached if n else {0} for n in reached}
        changed = True
        while changed:
            changed = False
            for n in sorted(reached - {0}):
                now = {n} | set.intersection(*(dominators[m] for m in before[n] & reached))
                changed |= now != dominators[n]
                dominators[n] = now
        bodies: dict[int, set[int]] = {}
        for n in reached:
            for header in after[n] & dominators[n]:
                body = bodies.setdefault(header, {header})
                todo = [n]
                while todo:
                    m = todo.pop()
                    if m not in body:
                        body.add(m)
                        todo += before[m] & reached
        return [[i for n in sorted(body) for i in blocks[n]] for body in bodies.values()]

    @functools.cached_property
    def main_loops(self) -> list[list[Instruction]]:
        """Loops with mma instructions of their own, not only in loops inside them (those are loops over tiles)."""
        found = []
        for loop in self.loops:
            inside = {i.address for i in loop}
            own = {i.address for i in loop if i.op in MMA}
            for other in self.loops:
                addresses = {i.address for i in other}
                if addresses < inside:
                    own -= addresses
            if own:
                found.append(loop)
        return found

    def spills(self) -> list[Instruction]:
        """Stores to a fixed place of the frame; arrays are addressed through other registers."""
        return [i for i in self.code if i.op == "STL" and re.search(r"\[R1(\+-?0x[0-9a-f]+)?\]", i.text)]

    def defects(self, narrow_allowed: bool) -> Iterator[str]:
        def kind(what: str, found: Iterable[Instruction]) -> Iterator[str]:
            unique = {i.address: i for i in found}  # loops overlap
            if unique:
                shown = "".join(f"\n    /*{i.address:04x}*/ {i.text}" for i in list(unique.values())[:4])
                yield f"{len(unique)} {what}{shown}" + ("\n    …" if len(unique) > 4 else "")

        yield from kind(f"spills ({sum(i.width for i in self.spills())} bytes)", self.spills())
        yield from kind("accesses to local memory in a loop", (i for loop in self.loops for i in loop if i.local))
        if not narrow_allowed:
            loads = (i for loop in self.main_loops for i in loop if i.global_read and i.width < 16)
            yield from kind("global loads under 16 bytes in a main loop", loads)


def tool(name: str) -> str:
    """Path of an NVIDIA tool: in PATH, or where its PyPI package puts it."""
    if found := shutil.which(name):
        return found
    for root in map(Path, sys.path):
        for found in sorted(root.glob(f"nvidia/*/bin/{name}")):
            return str(found)
    sys.exit(f"ptx_report: no {name}: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")


def dump(path: Path, *options: str) -> Iterator[str]:
    folders = [str(Path(tool(name)).parent) for name in ("cuobjdump", "nvdisasm")]
    environment = {**os.environ, "PATH": os.pathsep.join([*folders, os.environ.get("PATH", "")])}
    command = [tool("cuobjdump"), *options, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout and run.stderr
        yield from run.stdout
        message = run.stderr.read()
        if run.wait() != 0:
            sys.exit(f"ptx_report: {' '.join(command)}: {message.strip()}")


SASS = re.compile(r"/\*([0-9a-f]{4,})\*/\s+((?:@!?U?P\w+\s+)?)([A-Z0-9_]+)((?:\.\w+)*)\s*([^;]*);")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")


def read(path: Path, arch: str | None) -> dict[tuple[str, str], Kernel]:
    kernels: dict[tuple[str, str], Kernel] = {}
    current, name = "", ""
    for line in dump(path, "--dump-resource-usage"):
        if found := re.match(r"arch = (\w+)", line):
            current = found.group(1)
        elif found := re.match(r"\s*Function (\S+):", line):
            name = found.group(1)
        elif found := USAGE.search(line):
            registers, stack, shared = map(int, found.groups())
            kernels[current, name] = Kernel(name, current, registers, stack, shared)
    kernel: Kernel | None = None
    for line in dump(path, "--dump-sass"):
        if found := re.match(r"arch = (\w+)", line):
            current = found.group(1)
        elif found := re.match(r"\s*Function : (\S+)", line):
            kernel = kernels.setdefault((current, found.group(1)), Kernel(found.group(1), current))
        elif kernel and (found := SASS.search(line)):
            address, predicate, op, mods, rest = found.groups()
            text = f"{predicate}{op}{mods} {rest}".strip()
            kernel.code.append(Instruction(int(address, 16), op, mods.split(".")[1:], text))
    return {key: k for key, k in kernels.items() if arch in (None, k.arch)}


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Readable names, without parameters and anonymous namespaces."""
    names = list(names)
    if not names or not shutil.which("c++filt"):
        return {n: n for n in names}
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout

    def short(text: str) -> str:
        text = re.sub(r"^void ", "", text.replace("(anonymous namespace)::", "")).replace("saccade::", "")
        depth = 0
        for at, c in enumerate(text):  # the first bracket outside template arguments opens the parameters
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                return text[:at]
        return text

    return dict(zip(names, map(short, out.splitlines()), strict=True))


def table(rows: list[dict[str, object]]) -> None:
    if not rows:
        return
    columns = list(rows[0])
    text = [[str(row[c]) for c in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in text)) for i, c in enumerate(columns)]
    for line in [columns, *text]:
        cells = [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells]))


def histogram(counts: dict[str, int]) -> str:
    return "  ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda item: -item[1]) if n)


def print_code(kernels: list[Kernel], names: dict[str, str], full: bool) -> None:
    rows: list[dict[str, object]] = []
    for k in kernels:
        h = collections.Counter(i.family for i in k.code)
        main = max(k.main_loops, key=lambda loop: sum(i.op in MMA for i in loop), default=[])
        narrow = sum(i.global_read and i.width < 16 for i in k.code)
        rows.append(
            {
                "kernel": names[k.name],
                "arch": k.arch,
                "regs": k.registers,
                "stack": k.stack,
                "spills": len(k.spills()),
                "smem": k.shared,
                "code": len(k.code),
                "mma": h["mma"],
                "ldsm": h["ldsm"],
                "cp16": h["cp.async.16"],
                "ldg16": h["ldg.16"],
                "ldg<16": narrow,
                "lds": sum(n for f, n in h.items() if f.startswith("lds.")),
                "sts": sum(n for f, n in h.items() if f.startswith("sts.")),
                "local": h["ldl"] + h["stl"],
                "mufu": h["mufu"],
                "shfl": h["shuffle"],
                "loop": len(main),
                "loop mma": sum(i.op in MMA for i in main),
            }
        )
    table(rows)
    if full:
        for k in kernels:
            print(f"\n{names[k.name]} ({k.arch})\n  {histogram(collections.Counter(i.family for i in k.code))}")
            for loop in k.main_loops:
                h = collections.Counter(i.family for i in loop)
                print(f"  loop {loop[0].address:#x}–{loop[-1].address:#x}: {histogram(h)}")


SUMS = (
    "lane_instructions shared_requests shared_wavefronts shared_ideal global_requests global_sectors global_bytes "
    "tensor_flops bulk_bytes cp_async_bytes"
).split()


def read_counts(path: Path) -> dict[str, dict[str, int]]:
    """Sums by kernel: one line of JSON a launch, or a kernel with its `launches`."""
    sums: dict[str, dict[str, int]] = collections.defaultdict(lambda: collections.defaultdict(int))
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        into = sums[entry["kernel"]]
        into["launches"] += entry.get("launches", 1)
        for key, value in entry.items():
            if isinstance(value, int) and key != "launches":
                into[key] += value
    return sums


def classes_of(counts: dict[str, int]) -> dict[str, int]:
    return {k: n for k, n in counts.items() if k not in SUMS and k != "launches"}


def ratio(a: int, b: int, scale: float = 1) -> str:
    return f"{scale * a / b:.2f}" if b else "-"


def print_counts(counts: dict[str, dict[str, int]], names: dict[str, str], full: bool) -> None:
    rows: list[dict[str, object]] = []
    for kernel, c in counts.items():
        classes = classes_of(c)
        rows.append(
            {
                "kernel": names[kernel],
                "launches": c["launches"],
                "warp instr": sum(classes.values()),
                "mma": c["mma"] + c["wgmma"],
                "Gflop": f"{c['tensor_flops'] / 1e9:.4g}",
                "ldmatrix": c["ldmatrix"],
                "conflicts": c["shared_wavefronts"] - c["shared_ideal"],
                "conflicts %": ratio(c["shared_wavefronts"] - c["shared_ideal"], c["shared_ideal"], 100),
                "sectors/req": ratio(c["global_sectors"], c["global_requests"]),
                "sector use %": ratio(c["global_bytes"], 32 * c["global_sectors"], 100),
                "global MB": f"{c['global_bytes'] / 1e6:.4g}",
                "cp.async MB": f"{c['cp_async_bytes'] / 1e6:.4g}",
                "bulk MB": f"{c['bulk_bytes'] / 1e6:.4g}",
            }
        )
    table(rows)
    if full:
        for kernel, c in counts.items():
            print(f"\n{names[kernel]}\n  {histogram(classes_of(c))}")


def newest_library() -> list[Path]:
    found = [p for p in Path(__file__).resolve().parent.parent.glob("build/**/libsaccade.so*") if not p.is_symlink()]
    if not found:
        sys.exit("ptx_report: no libsaccade.so under build/: name object or library files")
    return [max(found, key=lambda p: p.stat().st_mtime)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="objects or shared libraries with CUDA code")
    parser.add_argument("--arch", help="only this one: sm_80, sm_90a, …")
    parser.add_argument("--kernel", default="", metavar="REGEX", help="only kernels whose readable name matches")
    parser.add_argument("--counts", type=Path, help="what SACCADE_EMULATOR_COUNTS=file wrote")
    parser.add_argument("--full", action="store_true", help="every class of instructions, and those of the main loops")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a kernel breaks a rule")
    parser.add_argument("--narrow", metavar="REGEX", help="kernels that may load less than 16 bytes in a main loop")
    parser.add_argument("--conflicts", type=float, metavar="PERCENT", help="with --check: bank conflicts allowed")
    o = parser.parse_args()

    counts = read_counts(o.counts) if o.counts else {}
    files = o.files or ([] if o.counts and not o.check else newest_library())
    kernels = [k for path in files for k in read(path, o.arch).values()]
    names = demangled({k.name for k in kernels} | counts.keys())
    kernels = sorted((k for k in kernels if re.search(o.kernel, names[k.name])), key=lambda k: (names[k.name], k.arch))
    counts = {k: c for k, c in counts.items() if re.search(o.kernel, names[k])}
    if not kernels and not counts:
        sys.exit(f"ptx_report: no kernel in {', '.join(map(str, files)) or o.counts}")

    print_code(kernels, names, o.full)
    if counts:
        print()
        print_counts(counts, names, o.full)
    if not o.check:
        return 0
    defects = [
        f"{names[k.name]} ({k.arch}): {defect}"
        for k in kernels
        for defect in k.defects(bool(o.narrow and re.search(o.narrow, names[k.name])))
    ]
    if o.conflicts is not None:
        for kernel, c in counts.items():
            extra = c["shared_wavefronts"] - c["shared_ideal"]
            if 100 * extra > o.conflicts * c["shared_ideal"]:
                defects.append(f"{names[kernel]}: {extra} bank conflicts in {c['shared_ideal']} wavefronts")
    print(f"\n{len(defects)} defects" if defects else f"\n{len(kernels)} kernels: no defects")
    print("\n".join(defects))
    return bool(defects)


if __name__ == "__main__":
    sys.exit(main())
