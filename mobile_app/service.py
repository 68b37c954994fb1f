"""What runs in the processes of the app's services on Android: its worker, or rounds that are due.

python-for-android runs this file with the argument that the service was started with, and ends the
process when it returns. No screen is imported here.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

ROUNDS_SERVICE_ID = 2
"""``Rounds`` is the second of the services in buildozer.spec."""


def main(argument: str) -> None:
    """Do what the argument says."""
    from pocketfl_app.android.services import ROUNDS
    from pocketfl_app.trust_store import use_bundled_authorities

    use_bundled_authorities()
    given = json.loads(argument)
    if ROUNDS in given:
        _run_rounds(Path(given[ROUNDS]), Path(given["assets"]))
    else:
        from pocketfl_app.worker.program import serve

        serve(argument)


def _run_rounds(data: Path, assets: Path) -> None:
    from pocketfl_app.android.notification import ServiceNotification
    from pocketfl_app.background import run_rounds
    from pocketfl_app.home import Home
    from pocketfl_app.strings import tr

    notification = ServiceNotification(
        ROUNDS_SERVICE_ID, title=tr("app.title"), channel=tr("service.channel")
    )
    run_rounds(
        Home(data=data, assets=assets),
        lambda outcome: notification.show(
            tr("service.working") if outcome is None else outcome.reason or outcome.status
        ),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    main(os.environ["PYTHON_SERVICE_ARGUMENT"])
