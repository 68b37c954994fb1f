"""PocketFL's app: ``make app``, or ``python mobile_app/main.py``; Android's bootstrap runs it, too."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketfl_app.application import PocketFLApp
    from pocketfl_app.home import Home

os.environ.setdefault("KIVY_NO_ARGS", "1")
os.environ.setdefault("KIVY_NO_FILELOG", "1")
# Kivy says a lot while it looks for what this machine has; only what is wrong concerns a person.
os.environ.setdefault("KIVY_LOG_MODE", "PYTHON")
# On Android the files beside this one are the app; on a desktop the package is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    """Open the window and stay until it is closed."""
    parser = argparse.ArgumentParser(description="Draw digits, train on them here, join rounds.")
    parser.add_argument("--data", type=Path, help="folder of this install")
    parser.add_argument("--assets", type=Path, help="what 'pocketfl app build' made")
    parser.add_argument("--demo", action="store_true", help="as 'pocketfl demo --app' starts it")
    given = parser.parse_args(sys.argv[1:])
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    # Kivy sets its loggers' levels itself, so the handler's has to hold.
    logging.getLogger().handlers[0].setLevel(logging.ERROR)
    # What an app of touches and no clipboard can do without; other machines lack it, which is no fault.
    logging.getLogger("kivy").addFilter(
        lambda record: not any(word in record.getMessage() for word in ("Cutbuffer", "MTDev"))
    )

    from kivy.config import Config

    # A phone's proportions; a person may change the size.
    Config.set("graphics", "width", "420")
    Config.set("graphics", "height", "840")
    Config.set("graphics", "multisamples", "0")
    # Kivy's red dots of a second mouse finger help nobody.
    Config.set("input", "mouse", "mouse,disable_multitouch")
    # SDL tells of touches; reading the devices beside it needs rights that nobody has.
    for name, value in Config.items("input"):
        if "probesysfs" in value:
            Config.remove_option("input", name)

    from pocketfl.errors import PocketFLError
    from pocketfl_app.bundle import ASSETS
    from pocketfl_app.home import Home
    from pocketfl_app.trust_store import use_bundled_authorities

    use_bundled_authorities()
    data = given.data if given.data is not None else default_data_folder()
    home = Home(data=data, assets=given.assets or ASSETS, demo=given.demo)
    try:
        _make_app(home).run()
    except PocketFLError as error:
        sys.exit(f"pocketfl app: {error}")


def _make_app(home: Home) -> PocketFLApp:
    from pocketfl.java import on_android
    from pocketfl_app.application import PocketFLApp

    if not on_android():
        return PocketFLApp(home)
    from pocketfl_app.android.services import AndroidWorker, start_rounds

    return PocketFLApp(home, launch=AndroidWorker, leave=start_rounds)


def default_data_folder() -> Path:
    """Return the platform's folder for this app's private files."""
    if hasattr(sys, "getandroidapilevel"):
        return Path(os.environ["ANDROID_PRIVATE"]) / "pocketfl"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", str(Path.home())))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local" / "share")))
    return base / "pocketfl-app"


if __name__ == "__main__":
    main()
