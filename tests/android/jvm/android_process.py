"""A pytest plugin that makes its process look like Android to PocketFL.

The interpreter says that it was built for Android, and pyjnius finds the classes and native libraries
of the real AARs. Load it with ``-p android_process``, in an environment that :mod:`harness` made.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

import jnius_config

from pocketfl.runtimes.executorch import load_library

LIBRARIES = (
    "libc++_shared.so",
    "libfbjni.so",
    "libexecutorch.so",
    "libonnxruntime.so",
    "libonnxruntime4j_jni.so",
)


def start(folder: str, classes: list[str], executorch_version: str) -> None:
    """Load the libraries and name the classes; Java starts when pyjnius is imported."""
    # The exporter's, first: its other libraries ask for a libexecutorch.so by name.
    load_library()
    for name in LIBRARIES:
        # Each library is to find its own C++ runtime before that of Java or torch, as on Android.
        ctypes.CDLL(f"{folder}/{name}", mode=os.RTLD_NOW | os.RTLD_DEEPBIND)
    # Where Java looks for the same ones by name; it reads this when it starts.
    os.environ["LD_LIBRARY_PATH"] = folder
    jnius_config.set_classpath(*classes)
    jnius_config.add_options(
        "-Xss4m",
        f"-Donnxruntime.native.path={folder}",
        f"-Dpocketfl.executorch={executorch_version}",
    )
    sys.getandroidapilevel = lambda: 36


start(**json.loads(os.environ["POCKETFL_JVM"]))
