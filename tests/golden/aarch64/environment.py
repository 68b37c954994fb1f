"""A 64-bit ARM Linux in a folder: Debian's Python, the device's dependencies, and QEMU to run them.

Nothing is installed. apt gets a configuration of its own, which trusts Debian's keys; pip fetches the
wheels for ARM of the very versions that this environment has. Both are kept in ``.cache/aarch64``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
CACHE = Path(os.environ.get("POCKETFL_AARCH64_CACHE", ROOT / ".cache" / "aarch64"))

SUITE = "trixie"
"""Of Debian. QEMU 7.2 of the one before ends at the import of onnxruntime 1.28."""
PYTHON = "3.13"
DEBIAN_PACKAGES = (f"python{PYTHON}", "libstdc++6", "libgomp1")
QEMU = "qemu-aarch64"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (34, 31, 28, 27, 26, 24, 17)]
EXECUTORCH = f"executorch=={version('executorch')}"
SECONDS = 600


@dataclass(frozen=True)
class Arm:
    """Programs for ARM and what runs them.

    Attributes
    ----------
    folder : Path
        With ``qemu-aarch64``, ``root`` (Debian), and ``packages`` and ``executorch`` (wheels).
    """

    folder: Path

    @property
    def executorch(self) -> Path:
        """ExecuTorch's package for ARM."""
        return self.folder / "executorch" / "executorch"

    def run(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> str:
        """Run Python for ARM with the device's package; return what it prints."""
        root = self.folder / "root"
        places = (self.folder / "packages", self.folder / "executorch", ROOT / "sdk")
        python = root / "usr" / "bin" / f"python{PYTHON}"
        done = subprocess.run(
            # Without site-packages, so that nothing of this machine is seen.
            [self.folder / QEMU, "-L", root, python, "-S", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(map(str, places)),
                # To compile anew at each start what other processors run takes half of the time.
                "PYTHONPYCACHEPREFIX": str(self.folder / "compiled"),
                "OMP_NUM_THREADS": "1",
                **(environment or {}),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def open_environment() -> Arm:
    """Return the environment, made if this one is not in the cache yet."""
    wheels = requirements()
    made_of = "\n".join([SUITE, *DEBIAN_PACKAGES, *wheels, EXECUTORCH])
    folder = CACHE / sha256(made_of.encode()).hexdigest()[:16]
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        unfinished.mkdir(parents=True)
        try:
            _unpack_debian(unfinished)
            _install(unfinished / "packages", *wheels)
            # Without torch, which the wheel names nowhere, and what its compiler needs.
            _install(unfinished / "executorch", "--no-deps", EXECUTORCH)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Arm(folder)


def requirements() -> list[str]:
    """Return what the device's package depends on, pinned to what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = (Requirement(line) for line in project["dependencies"])
    return [
        f"{each.name}=={version(each.name)}"
        for each in found
        if each.marker is None or each.marker.evaluate()
    ]


def _unpack_debian(folder: Path) -> None:
    debs, apt = folder / "debs", folder / "apt"
    for path in (debs / "partial", apt / "lists" / "partial"):
        path.mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    host = _output("dpkg", "--print-architecture").strip()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": ",".join(dict.fromkeys(("arm64", host))),
        "APT::Sandbox::User": "",  # Another user may not write here.
        "Acquire::Languages": "none",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "Dir::Cache::archives": debs,
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _output("apt-get", *options, "-qq", "update")
    _output(
        *("apt-get", *options, "-qq", "--yes", "--no-install-recommends", "--download-only"),
        *("install", *DEBIAN_PACKAGES),
    )
    root, qemu = folder / "root", folder / "all-of-qemu"
    # Another of Debian's packages brings this link, beside much else.
    (root / "usr" / "lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    for deb in debs.glob("*.deb"):
        _output("dpkg-deb", "-x", deb, root)
        deb.unlink()
    # QEMU's needs no library, so it comes without what it depends on.
    _output("apt-get", *options, "-qq", "download", f"qemu-user:{host}", folder=debs)
    (deb,) = debs.glob("qemu-user_*.deb")
    _output("dpkg-deb", "-x", deb, qemu)
    (qemu / "usr" / "bin" / QEMU).rename(folder / QEMU)
    for unneeded in (debs, apt, qemu):
        shutil.rmtree(unneeded)


def _mirror() -> str:
    """Return where this machine gets Debian from."""
    # Whether or not their lists were ever fetched.
    query = ("indextargets", "--no-release-info", "--format", "$(REPO_URI)")
    targets = _output("apt-get", *query, "Created-By: Packages")
    for place in dict.fromkeys(targets.split()):
        if place.rstrip("/").endswith("/debian"):
            return place
    raise AssertionError("apt has no mirror of Debian among its sources")


def _install(target: Path, *arguments: str) -> None:
    platforms = [part for each in PLATFORMS for part in ("--platform", each)]
    _output(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-compile", "--only-binary=:all:", "--python-version", PYTHON, *platforms),
        *("--target", target, *arguments),
    )


def _output(*command: str | Path, folder: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout
