"""buildozer.spec becomes the command, the manifest and the Gradle file that a phone needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .packaging import p4a_commands, render

ANDROID = "{http://schemas.android.com/apk/res/android}"
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
API = "35"
ONNX_RUNTIME = "com.microsoft.onnxruntime:onnxruntime-android:1.28.0"
EXECUTORCH = "org.pytorch:executorch-android:1.5.1"

needs_aapt2 = pytest.mark.skipif(
    shutil.which("aapt2") is None or not FRAMEWORK.exists(),
    reason="needs aapt2: apt-get install aapt android-framework-res",
)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What python-for-android is called with, by its first argument."""
    return {c[0]: c for c in p4a_commands(tmp_path_factory.mktemp("spec"))}


@pytest.fixture(scope="session")
def project(commands: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Gradle would build."""
    return render(commands["apk"], tmp_path_factory.mktemp("project"), api=API)


@pytest.fixture
def manifest(project: Path) -> ElementTree.Element:
    return ElementTree.parse(project / "AndroidManifest.xml").getroot()


def test_the_distribution_is_created_with_these_packages(commands: dict[str, list[str]]) -> None:
    """Every package by name, for both 64-bit processors."""
    assert commands["create"] == [
        "create",
        "--dist_name=pocketfl",
        "--bootstrap=sdl2",
        "--requirements=python3,kivy==2.3.1,pyjnius,android,numpy,cryptography,cffi,pycparser,openssl,"
        "sqlite3,pyhpke==0.6.5,pyjwt,flatbuffers,certifi,filetype",
        "--arch=arm64-v8a",
        "--arch=x86_64",
        "--copy-libs",
    ]


def test_the_apk_is_built_with_this_command(commands: dict[str, list[str]]) -> None:
    """Word for word, but for the folder of the app's files."""
    command = commands["apk"]
    place = command.index("--private") + 1
    assert command[:place] + command[place + 1 :] == [
        *("apk", "--bootstrap", "sdl2", "--dist_name", "pocketfl"),
        *("--name", "PocketFL", "--version", "0.1.0", "--package", "org.pocketfl.pocketfl"),
        *("--minsdk", "26", "--ndk-api", "26", "--private"),
        *("--permission", "android.permission.INTERNET"),
        *("--permission", "android.permission.ACCESS_NETWORK_STATE"),
        *("--permission", "android.permission.FOREGROUND_SERVICE"),
        *("--permission", "android.permission.FOREGROUND_SERVICE_DATA_SYNC"),
        *("--permission", "android.permission.POST_NOTIFICATIONS"),
        *("--android-entrypoint", "org.kivy.android.PythonActivity"),
        *("--android-apptheme", "@android:style/Theme.NoTitleBar"),
        *("--add-packaging-option", "pickFirst 'lib/**/libc++_shared.so'"),
        *("--meta-data", "org.pocketfl.executorch=1.5.1"),
        *("--orientation", "portrait", "--window", "--enable-androidx", "--allow-backup", "false"),
        *("--service", "Worker:service.py:foreground:foregroundServiceType=dataSync"),
        *("--service", "Rounds:service.py:foreground:foregroundServiceType=dataSync"),
        *("--copy-libs", "--depend", ONNX_RUNTIME, "--depend", EXECUTORCH),
        *("--arch", "arm64-v8a", "--arch", "x86_64"),
    ]


def test_the_manifest_says_what_the_app_needs(manifest: ElementTree.Element) -> None:
    """Two services of the right type, five permissions, no backup, ExecuTorch's version."""
    application = manifest.find("application")
    services = {
        service.get(f"{ANDROID}name"): (
            service.get(f"{ANDROID}foregroundServiceType"),
            service.get(f"{ANDROID}process"),
            service.get(f"{ANDROID}exported"),
        )
        for service in application.findall("service")
    }
    assert services == {
        "org.pocketfl.pocketfl.ServiceWorker": ("dataSync", ":service_Worker", None),
        "org.pocketfl.pocketfl.ServiceRounds": ("dataSync", ":service_Rounds", None),
    }
    permissions = {p.get(f"{ANDROID}name") for p in manifest.findall("uses-permission")}
    assert permissions == {
        f"android.permission.{name}"
        for name in (
            "INTERNET",
            "ACCESS_NETWORK_STATE",
            "FOREGROUND_SERVICE",
            "FOREGROUND_SERVICE_DATA_SYNC",
            "POST_NOTIFICATIONS",
        )
    }
    assert application.get(f"{ANDROID}allowBackup") == "false"
    assert manifest.find("uses-sdk").get(f"{ANDROID}minSdkVersion") == "26"
    meta = {
        m.get(f"{ANDROID}name"): m.get(f"{ANDROID}value") for m in application.iter("meta-data")
    }
    assert meta["org.pocketfl.executorch"] == EXECUTORCH.rpartition(":")[2]


def test_gradle_gets_the_runtimes(project: Path) -> None:
    """Both AARs, and one of the two C++ libraries of the same name; no stray quotes."""
    gradle = (project.parent.parent / "build.gradle").read_text()
    assert f"implementation '{ONNX_RUNTIME}'" in gradle
    assert f"implementation '{EXECUTORCH}'" in gradle
    assert "        pickFirst 'lib/**/libc++_shared.so'\n" in gradle
    assert "minSdkVersion 26" in gradle
    assert f"compileSdkVersion {API}" in gradle


def test_onnx_runtime_is_one_without_usage_reports() -> None:
    """1.29 and later report unless they are told not to before they are loaded."""
    major, minor, _ = map(int, ONNX_RUNTIME.rpartition(":")[2].split("."))
    assert (major, minor) < (1, 29)


def aapt2(manifest: Path, resources: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile the resources and link them with a manifest against Android's framework."""
    compiled = folder / "resources.zip"
    subprocess.run(["aapt2", "compile", "--dir", str(resources), "-o", str(compiled)], check=True)
    return subprocess.run(
        [
            *("aapt2", "link", "-I", str(FRAMEWORK), "--manifest", str(manifest)),
            *("-o", str(folder / "linked.apk"), "--auto-add-overlay", str(compiled)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@needs_aapt2
def test_aapt2_accepts_the_manifest(project: Path, tmp_path: Path) -> None:
    """Names and values are Android's; a wrong one is found."""
    # Gradle adds the package from its namespace; aapt2 alone asks for it.
    text = (project / "AndroidManifest.xml").read_text()
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_text(text.replace("<manifest ", '<manifest package="org.pocketfl.pocketfl" ', 1))
    bad.write_text(good.read_text().replace('"dataSync"', '"dataSinc"', 1))
    linked = aapt2(good, project / "res", tmp_path)
    assert linked.returncode == 0, linked.stderr
    refused = aapt2(bad, project / "res", tmp_path)
    assert refused.returncode != 0
    assert "dataSinc" in refused.stderr
