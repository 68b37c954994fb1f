"""The APK has every package that the app imports, and python-for-android knows how to build them."""

from __future__ import annotations

import ast
import sys
from configparser import ConfigParser
from pathlib import Path

from pythonforandroid.bootstrap import Bootstrap
from pythonforandroid.build import Context
from pythonforandroid.graph import get_recipe_order_and_bootstrap

from .packaging import SPEC

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "sdk" / "pocketfl", ROOT / "mobile_app"]

# Packages are named as they are imported, but for these.
IMPORTED_AS = {"pyjwt": "jwt", "pyjnius": "jnius"}
# What only desktops import, and the command line. (On a phone its camera reads QR codes.)
QR_CODES = {"PIL", "segno", "zxingcpp"}
DESKTOP = {"executorch", "jeepney", "onnxruntime", "psutil", "rich", "torch", "typer"} | QR_CODES
# Names of the framework for mypy alone.
STUBS = {"android", "java", "javax"}
NATIVE = {"cffi", "cryptography", "kivy", "numpy", "openssl", "pyjnius", "python3", "sqlite3"}


def requirements() -> list[str]:
    spec = ConfigParser(comment_prefixes="#")
    spec.read(SPEC)
    return [name.partition("==")[0] for name in spec["app"]["requirements"].split(",")]


def imported() -> set[str]:
    """Return the packages that the SDK and the app import, their own and Python's left out."""
    names: set[str] = set()
    for source in SOURCES:
        for file in source.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(node.module.partition(".")[0])
    own = {"pocketfl", "pocketfl_app"}
    return names - own - set(sys.stdlib_module_names)


def test_every_package_that_is_imported_is_in_the_apk() -> None:
    """Nothing is missing on the phone; pip would not find it by itself."""
    packaged = {IMPORTED_AS.get(name, name) for name in requirements()}
    assert imported() - DESKTOP - STUBS - packaged == set()


def test_native_packages_have_recipes() -> None:
    """python-for-android builds what is not pure Python, in an order that it finds itself."""
    context = Context()
    context.recipe_build_order = []
    context.local_recipes = None
    order, _, bootstrap = get_recipe_order_and_bootstrap(
        context, requirements(), Bootstrap.get_bootstrap("sdl2", context)
    )
    assert bootstrap.name == "sdl2"
    assert set(order) >= NATIVE
