"""From buildozer.spec to what Gradle gets, by the packaging tools' own code, without Android's SDK.

buildozer is asked for the commands that it would give python-for-android; python-for-android's build
script then writes manifest, Gradle file and services into a copy of its own bootstrap.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pythonforandroid
from buildozer import Buildozer
from buildozer.targets.android import TargetAndroid

SPEC = Path(__file__).parents[2] / "mobile_app" / "buildozer.spec"
BOOTSTRAPS = Path(pythonforandroid.__file__).parent / "bootstraps"
SDK = "/the/sdk"


def p4a_commands(folder: Path, spec: Path = SPEC) -> list[list[str]]:
    """Return the arguments of each call of python-for-android that buildozer makes for a debug APK."""
    shutil.copy(spec, folder / "buildozer.spec")
    commands: list[list[str]] = []
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        target = TargetAndroid(Buildozer("buildozer.spec", "android"))
        target.build_mode = "debug"
        target.buildozer.environ = {}
        target._p4a = lambda command, **_: commands.append([str(part) for part in command])
        target.get_dist_dir = lambda _: "dist"
        target._update_libraries_references = lambda _: None
        target._generate_whitelist = lambda _: None
        places = {name: property(lambda _: SDK) for name in ("android_sdk_dir", "android_ndk_dir")}
        with mock.patch.multiple(TargetAndroid, p4a_dir=property(lambda _: "/p4a"), **places):
            target.compile_platform()
            # It ends at the APK that Gradle would have made.
            with contextlib.suppress(FileNotFoundError):
                target.build_package()
    return commands


def render(command: list[str], folder: Path, *, api: str) -> Path:
    """Run python-for-android's build script with a command and return the folder that Gradle would get.

    Parameters
    ----------
    command : list of str
        ``apk`` and its arguments, of :func:`p4a_commands`.
    folder : Path
        For the project; made here.
    api : str
        Android's API level that is built against.
    """
    for layer in ("common", "_sdl_common", "sdl2"):
        shutil.copytree(BOOTSTRAPS / layer / "build", folder, dirs_exist_ok=True)
    information = {
        "dist_name": "pocketfl",
        "bootstrap": "sdl2",
        "archs": ["arm64-v8a", "x86_64"],
        "ndk_api": 26,
        "hostpython": sys.executable,
        "use_setup_py": False,
        "python_version": "3.14",
        "recipes": ["python3", "kivy", "pyjnius"],
    }
    (folder / "dist_info.json").write_text(json.dumps(information))
    (folder / "sdk" / "build-tools" / "36.0.0").mkdir(parents=True)
    (folder / "local.properties").write_text(f"sdk.dir={folder / 'sdk'}\n")
    (folder / "project.properties").write_text(f"target=android-{api}\n")
    for arch in information["archs"]:
        bundle = folder / f"_python_bundle__{arch}" / "_python_bundle"
        bundle.mkdir(parents=True)
        (bundle / "stdlib.zip").write_bytes(b"")
        (folder / "libs" / arch).mkdir(parents=True, exist_ok=True)
    app = folder / "app"
    app.mkdir()
    for name in ("main.py", "service.py"):
        (app / name).write_text("")
    subprocess.run(
        [sys.executable, "build.py", *_build_arguments(command, app)],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "ANDROIDSDK": str(folder / "sdk")},
    )
    return folder / "src" / "main"


def _build_arguments(command: list[str], app: Path) -> list[str]:
    """Return what python-for-android passes on to its build script."""
    arguments: list[str] = []
    rest = iter(command[1:])
    for argument in rest:
        if argument in ("--bootstrap", "--dist_name", "--arch", "--ndk-api"):
            next(rest)
        elif argument in ("--copy-libs", "debug", "release"):
            continue
        elif argument == "--private":
            next(rest)
            arguments += ["--private", str(app)]
        else:
            arguments.append(argument)
    return arguments
