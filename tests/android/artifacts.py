"""The real Android libraries, as packages of npm carry them: fetched once, checked by hash, unpacked.

Maven, where an app's build gets them, has the same files; npm is what a plain machine can reach.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(
    os.environ.get("POCKETFL_ANDROID_CACHE", Path(__file__).parents[2] / ".cache" / "android")
)


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package of npm and the hash of its archive."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> Path:
        plain = self.name.replace("@", "").replace("/", "-")
        return CACHE / f"{plain}-{self.version}.tgz"


# ONNX Runtime 1.29.0: classes and native libraries of onnxruntime-android.
ONNX_RUNTIME = Package(
    name="com.github.asus4.onnxruntime",
    version="0.4.9",
    sha256="e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d",
)
# ExecuTorch: classes and native library of executorch-android; it does not tell its version.
EXECUTORCH = Package(
    name="react-native-executorch",
    version="0.9.3",
    sha256="70a20a865b82f47ac46c82711d93c2038cf99eccbb9b287494219063f2217622",
)
# libfbjni and libc++_shared, which ExecuTorch's library needs.
FBJNI = Package(
    name="react-native",
    version="0.70.15",
    sha256="937d2850f71d42ed4341f0229dc132b95f20c52af290a8557a072e07c2c3d310",
)


def fetch(package: Package) -> Path:
    """Return the package's archive, downloaded if it is not in the cache yet."""
    if not package.archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
            cwd=CACHE,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    found = hashlib.sha256(package.archive.read_bytes()).hexdigest()
    if found != package.sha256:
        package.archive.unlink()
        raise ValueError(f"{package.archive.name} has sha256 {found}, not {package.sha256}")
    return package.archive


def onnx_runtime(folder: Path) -> Path:
    """Unpack the AAR of ONNX Runtime and return its folder."""
    return _unpack_aar(ONNX_RUNTIME, "Plugins/Android/onnxruntime.aar", folder / "onnxruntime")


def executorch(folder: Path) -> Path:
    """Unpack ExecuTorch's classes and library as its AAR has them and return the folder."""
    target = folder / "executorch"
    native = target / "jni" / "x86_64"
    if not target.exists():
        native.mkdir(parents=True)
        with tarfile.open(fetch(EXECUTORCH)) as archive:
            for member, place in (
                ("android/libs/classes.jar", target / "classes.jar"),
                (
                    "third-party/android/libs/executorch/x86_64/libexecutorch.so",
                    native / "libexecutorch.so",
                ),
            ):
                place.write_bytes(_content(archive, f"package/{member}"))
    return target


def fbjni(folder: Path) -> Path:
    """Unpack the AAR that has libfbjni and return its folder."""
    name = f"react-native-{FBJNI.version}-release.aar"
    member = f"android/com/facebook/react/react-native/{FBJNI.version}/{name}"
    return _unpack_aar(FBJNI, member, folder / "fbjni")


def _unpack_aar(package: Package, member: str, target: Path) -> Path:
    if not target.exists():
        target.mkdir(parents=True)
        aar = target / "library.aar"
        with tarfile.open(fetch(package)) as archive:
            aar.write_bytes(_content(archive, f"package/{member}"))
        with zipfile.ZipFile(aar) as files:
            wanted = [
                name
                for name in files.namelist()
                if name in ("classes.jar", "AndroidManifest.xml") or name.startswith("jni/x86_64/")
            ]
            files.extractall(target, wanted)
        aar.unlink()
    return target


def _content(archive: tarfile.TarFile, member: str) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, member
    return file.read()
