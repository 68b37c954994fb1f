"""Makes Android's native libraries load in a Linux process, without changing a byte of them.

They ask for ``libc.so``, ``libm.so``, ``libdl.so``, ``liblog.so`` and ``libandroid.so``, with versions
of Android's own. This builds libraries of these names: each function that the libraries ask for jumps
to glibc's, but for those that bionic.c has. x86-64 only.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
STREAMS = ("stdin", "stdout", "stderr")
DATA = {**dict.fromkeys(STREAMS, 8), "__sF": 3 * 152}
"""Bytes of what is no function."""
OWN = "bionic_"


def build_bridge(libraries: Iterable[Path], folder: Path) -> None:
    """Build in a folder what these libraries need of Android."""
    wanted = sorted({symbol for library in libraries for symbol in _wanted(library)})
    own = set(re.findall(rf"\b{OWN}(\w+)(?=\()", (HERE / "bionic.c").read_text()))
    versions = sorted({version for _, version in wanted} | {"LIBC"})
    (folder / "versions.map").write_text("".join(f"{v} {{ }};\n" for v in versions))
    (folder / "jumps.s").write_text(_assembly(wanted, own))
    (folder / "jumps.c").write_text(_loader(sorted({name for name, _ in wanted} - own)))
    _compile(
        folder / "libc.so",
        [HERE / "bionic.c", folder / "jumps.c", folder / "jumps.s"],
        folder / "versions.map",
    )
    (folder / "empty.c").write_text("")
    for name in ("libm.so", "libdl.so"):
        _compile(folder / name, [folder / "empty.c"], folder / "versions.map")
    _compile(folder / "liblog.so", [HERE / "log.c"], None)
    _compile(folder / "libandroid.so", [folder / "empty.c"], None)


def _wanted(library: Path) -> Iterable[tuple[str, str]]:
    """Yield name and version of each symbol that a library takes from Android's C library."""
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", "--with-symbol-versions", str(library)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    yield from re.findall(r"\s(\w+)@(LIBC\w*)", listing)


def _assembly(wanted: Iterable[tuple[str, str]], own: set[str]) -> str:
    """Assembly that exports each symbol under its version.

    The assembler gives versions to what the same file defines only, so all of it is here.
    """
    lines = []
    seen: set[str] = set()
    for name, version in wanted:
        local = f"export_{name}"
        if name not in seen:
            seen.add(name)
            if name in DATA:
                lines += [".bss", ".balign 16", f".globl {local}", f"{local}: .zero {DATA[name]}"]
                lines += [f".type {local}, @object", f".size {local}, {DATA[name]}"]
            else:
                jump = f"{OWN}{name}" if name in own else f"*glibc_{name}(%rip)"
                lines += [".text", f".globl {local}", f".type {local}, @function"]
                lines += [f"{local}: jmp {jump}"]
        lines.append(f".symver {local}, {name}@{version}")
    lines.append('.section .note.GNU-stack,"",@progbits')
    return "\n".join(lines) + "\n"


def _loader(names: list[str]) -> str:
    """C that finds glibc's functions when the library is loaded."""
    functions = [name for name in names if name not in DATA]
    streams = [name for name in names if name in STREAMS]
    filled = "".join(f"    export_{n} = {n};\n" for n in streams)
    externals = "".join(f"extern FILE *export_{n};\n" for n in streams)
    declared = "".join(
        f'__attribute__((visibility("hidden"))) void *glibc_{n};\n' for n in functions
    )
    found = "".join(f'    glibc_{n} = find("{n}");\n' for n in functions)
    return f"""#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
{externals}{declared}
static void *find(const char *name) {{
    static void *places[2];
    if (!places[0]) places[0] = dlopen("libc.so.6", RTLD_NOW);
    if (!places[1]) places[1] = dlopen("libm.so.6", RTLD_NOW);
    for (int i = 0; i < 2; i++) {{
        void *found = dlsym(places[i], name);
        if (found) return found;
    }}
    fprintf(stderr, "glibc has no %s: add it to bionic.c\\n", name);
    abort();
}}
__attribute__((constructor)) static void fill(void) {{
{filled}{found}}}
"""


def _compile(target: Path, sources: list[Path], versions: Path | None) -> None:
    script = [f"-Wl,--version-script={versions}"] if versions else []
    subprocess.run(
        [
            *("gcc", "-O1", "-shared", "-fPIC", "-fno-builtin", "-U_FORTIFY_SOURCE"),
            *(f"-Wl,-soname,{target.name}", "-Wl,-z,noexecstack", *script),
            *("-o", str(target), *map(str, sources)),
        ],
        check=True,
    )
