"""Every class and method of the AARs that the glue uses is there, with the arguments that it gives.

The framework's own are checked by mypy, against the stubs of API 36 (`make check`).
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from pocketfl.runtimes import android_executorch, android_onnx

pytestmark = [pytest.mark.jvm, pytest.mark.timeout(600)]

ORT = "ai.onnxruntime."
ET = "org.pytorch.executorch."
OPTIONS = f"{ORT}OrtSession$SessionOptions"
MAP, SET, BYTES = "java.util.Map", "java.util.Set", "java.nio.ByteBuffer"
FEED = f"{MAP}<java.lang.String, ? extends {ORT}OnnxTensorLike>"
PINNED = f"{MAP}<java.lang.String, ? extends {ORT}OnnxValue>"

# Members as javap prints them.
ONNX_RUNTIME = {
    f"{ORT}OrtEnvironment": [
        "getEnvironment()",
        f"createSession({BYTES}, {OPTIONS})",
        "setTelemetry(boolean)",
        "getVersion()",
    ],
    OPTIONS: [
        f"{OPTIONS}()",
        "setIntraOpNumThreads(int)",
        "setInterOpNumThreads(int)",
        f"setSessionLogLevel({ORT}OrtLoggingLevel)",
        f"setOptimizationLevel({OPTIONS}$OptLevel)",
        "close()",
    ],
    f"{OPTIONS}$OptLevel": ["ALL_OPT"],
    f"{ORT}OrtLoggingLevel": ["ORT_LOGGING_LEVEL_ERROR"],
    f"{ORT}OrtSession": [
        "getInputNames()",
        "getOutputNames()",
        f"{MAP}<java.lang.String, {ORT}NodeInfo> getInputInfo()",
        f"{MAP}<java.lang.String, {ORT}NodeInfo> getOutputInfo()",
        f"run({FEED}, {SET}<java.lang.String>, {PINNED}, {ORT}OrtSession$RunOptions)",
        "close()",
    ],
    f"{ORT}OrtSession$Result": ["close()"],
    f"{ORT}OrtSession$RunOptions": [
        f"{ORT}OrtSession$RunOptions()",
        "setTerminate(boolean)",
        "close()",
    ],
    f"{ORT}OnnxTensor": [
        f"createTensor({ORT}OrtEnvironment, {BYTES}, long[], {ORT}OnnxJavaType)",
        "close()",
    ],
    f"{ORT}OnnxJavaType": ["FLOAT", "INT64", "BOOL"],
    f"{ORT}NodeInfo": ["getInfo()"],
    f"{ORT}TensorInfo": ["type", "getShape()"],
}
EXECUTORCH = {
    f"{ET}Module": [
        "load(java.lang.String, int, int)",
        "LOAD_MODE_FILE",
        "loadMethod(java.lang.String)",
        f"{ET}EValue[] execute(java.lang.String, {ET}EValue...)",
        "close()",
    ],
    f"{ET}Tensor": [
        *(f"fromBlob(java.nio.{kind}Buffer, long[])" for kind in ("Float", "Long")),
        f"fromBlobUnsigned({BYTES}, long[])",
        *(f"copyDataInto(java.nio.{kind}Buffer)" for kind in ("Float", "Long")),
    ],
    f"{ET}EValue": [f"from({ET}Tensor)", "toTensor()"],
}
# Java's own, which every Android has.
PLATFORM = {"allocateDirect", "toArray", "toString", "getProperty", "emptySet"}


def missing(jar: Path, wanted: dict[str, list[str]]) -> list[str]:
    """Return what a jar has not, of classes and members that it should have."""
    found = []
    for name, members in wanted.items():
        printed = subprocess.run(
            ["javap", "-public", "-cp", str(jar), name], capture_output=True, text=True, check=False
        ).stdout
        if f"{name} " not in printed:
            found.append(name)
            continue
        found += [
            f"{name}.{member}"
            for member in members
            if not re.search(rf"(?<!\w){re.escape(member)}(?=[ ;])", printed)
        ]
    return found


@pytest.mark.parametrize(
    ("aar", "wanted"), [("onnxruntime", ONNX_RUNTIME), ("executorch", EXECUTORCH)]
)
def test_the_real_classes_have_what_is_called(
    android: tuple[Path, dict[str, str]], aar: str, wanted: dict[str, list[str]]
) -> None:
    """Names and arguments, and a made-up one is found to be missing."""
    jar = android[0] / aar / "classes.jar"
    assert missing(jar, wanted) == []
    name = next(iter(wanted))
    assert missing(jar, {name: ["madeUp()"]}) == [f"{name}.madeUp()"]
    assert missing(jar, {f"{name}Made": []}) == [f"{name}Made"]


@pytest.mark.parametrize(
    ("module", "wanted"), [(android_onnx, ONNX_RUNTIME), (android_executorch, EXECUTORCH)]
)
def test_the_list_has_all_that_the_glue_calls(module, wanted: dict[str, list[str]]) -> None:
    """Every class it names and every member with a name of Java's kind is in the list above."""
    tree = ast.parse(Path(module.__file__).read_text())
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    classes = {t for t in texts if re.fullmatch(r"(ai|org)(\.\w+)+\.[A-Z][\w$]*", t)}
    assert classes <= set(wanted)
    listed = set(re.findall(r"\w+", " ".join(m for members in wanted.values() for m in members)))
    called = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.fullmatch(r"[a-z]+[A-Z]\w*|[A-Z_]{3,}", node.attr)
    }
    assert called
    assert called - PLATFORM - listed == set()
