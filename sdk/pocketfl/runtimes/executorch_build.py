"""Building the small library by which :mod:`pocketfl.runtimes.executorch_native` reaches ExecuTorch.

The executorch wheel has ExecuTorch as shared libraries with their headers; what joins them to Python is
compiled on the machine it is for, once per version: ``pocketfl runtimes build-executorch``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from pocketfl.errors import RuntimeUnavailableError

LIBRARY_VARIABLE: Final = "POCKETFL_EXECUTORCH_LIBRARY"
"""Names a library that was built elsewhere; empty for none at all."""
SOURCE: Final = Path(__file__).with_name("executorch_native.cpp")
PACKAGE: Final = "executorch"

_OPTIONS: Final = ("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-z,defs")
# What the wheel's CMake file asks of programs that use its headers.
_DEFINITIONS: Final = ("C10_USING_CUSTOM_GENERATED_MACROS", "ET_USE_THREADPOOL")
_LINKED: Final = ("-lexecutorch", "-lexecutorch_threadpool")
_SECONDS: Final = 600


def package_folder() -> Path:
    """Return where the executorch package is installed; nothing of it is imported.

    Raises
    ------
    RuntimeUnavailableError
        If it is not, or has no libraries in it, as before 1.5.
    """
    try:
        folder = Path(str(distribution(PACKAGE).locate_file(PACKAGE)))
    except PackageNotFoundError as error:
        raise RuntimeUnavailableError(
            "executorch is not installed: pip install 'pocketfl[executorch]'"
        ) from error
    if not (folder / "lib" / "libexecutorch.so").exists():
        raise RuntimeUnavailableError(
            f"the executorch in {folder} has no libraries of its own: Linux wheels from 1.5 on have"
        )
    return folder


def built_library() -> Path:
    """Return where :func:`build_library` puts the library for the installed executorch.

    The name says for which: another version, another build of it or another source is another file.

    Raises
    ------
    RuntimeUnavailableError
        As :func:`package_folder`.
    """
    digest = _digest(package_folder() / "lib" / "libexecutorch.so")
    return _cache_folder() / f"executorch-{distribution(PACKAGE).version}-{digest[:16]}.so"


def find_library() -> Path | None:
    """Return the library for the installed executorch, or None if it was not built.

    The environment variable ``POCKETFL_EXECUTORCH_LIBRARY`` names another; empty, it means none.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        library = built_library()
    except RuntimeUnavailableError:
        return None
    return library if library.exists() else None


def build_library(
    target: Path | None = None,
    *,
    compiler: str = "g++",
    package: Path | None = None,
    version: str | None = None,
) -> Path:
    """Compile the library; takes some seconds, and a compiler of C++20.

    Parameters
    ----------
    target : Path, optional
        Where it goes; :func:`built_library` by default.
    compiler : str
        A program that takes the options of g++, such as one for another processor.
    package, version : optional
        Folder and version of an executorch package other than the installed one.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    RuntimeUnavailableError
        If there is no compiler, or it refuses; says what it said.
    """
    package = package_folder() if package is None else package
    version = distribution(PACKAGE).version if version is None else version
    target = built_library() if target is None else target
    if sys.platform != "linux":
        raise RuntimeUnavailableError(
            f"the library can be built on Linux only, not on {sys.platform}: pip install "
            "'pocketfl[export]' for ExecuTorch's Python bindings"
        )
    if shutil.which(compiler) is None:
        raise RuntimeUnavailableError(
            f"there is no {compiler}: install a compiler of C++ (on Debian: apt-get install g++)"
        )
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        done = subprocess.run(  # noqa: S603 - the caller's compiler on our own source
            _command(compiler, made, package, version),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        if done.returncode:
            raise RuntimeUnavailableError(
                f"{compiler} cannot compile it against executorch {version}:\n{done.stderr.strip()}"
            )
        made.replace(target)
    return target


def _command(compiler: str, target: Path, package: Path, version: str) -> list[str | Path]:
    include = package / "include"
    definitions = [*_DEFINITIONS, f'POCKETFL_EXECUTORCH_VERSION="{version}"']
    return [
        compiler,
        *_OPTIONS,
        *(f"-D{definition}" for definition in definitions),
        f"-I{include}",
        f"-I{include / 'executorch' / 'runtime' / 'core' / 'portable_type' / 'c10'}",
        SOURCE,
        f"-L{package / 'lib'}",
        *_LINKED,
        "-o",
        target,
    ]


@cache
def _digest(executorch: Path) -> str:
    digest = sha256(SOURCE.read_bytes())
    digest.update(executorch.read_bytes())
    return digest.hexdigest()


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is invalid (XDG Base Directory Specification).
    return (base if base.is_absolute() else Path.home() / ".cache") / "pocketfl" / "executorch"
