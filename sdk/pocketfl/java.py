"""The Java machine that an Android app runs in, reached through pyjnius.

Other modules ask here whether they run on Android, for Java's classes, and for the app's own context.
Nothing is imported from pyjnius before it is asked for, so a desktop needs none of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from android.content import Context
    from android.content.pm import PackageManager

# Set in the processes of services by python-for-android, which have no activity.
_SERVICE_VARIABLE: Final = "PYTHON_SERVICE_ARGUMENT"

ClassFinder: TypeAlias = Callable[[str], Any]
"""Returns a Java class by its name: pyjnius's ``autoclass``."""


class Java(NamedTuple):
    """What this package uses of pyjnius.

    Attributes
    ----------
    autoclass : callable
        Returns a class by its name.
    cast : callable
        Returns an object as one of a class, given by its name.
    exception : type of Exception
        What every exception of Java is raised as.
    """

    autoclass: ClassFinder
    cast: Callable[[str, Any], Any]
    exception: type[Exception]


def on_android() -> bool:
    """Return whether this is an interpreter that was built for Android.

    Such interpreters report one of two platform names, depending on their version; this function of
    theirs has been there all along.
    """
    return hasattr(sys, "getandroidapilevel")


def load_java() -> Java:
    """Import pyjnius.

    A Java machine finds an app's own classes on threads that it started itself, the main thread among
    them: ask for classes there first, other threads then reuse them.

    Raises
    ------
    Exception
        Of many kinds, where pyjnius or the Java machine is missing.
    """
    from jnius import JavaException, autoclass, cast

    return Java(autoclass, cast, JavaException)


def running_context(autoclass: ClassFinder) -> Any | None:
    """Return the running activity or service of Kivy's bootstrap; None when neither has started."""
    # A service runs in a process of its own, which has no activity.
    if _SERVICE_VARIABLE in os.environ:
        return autoclass("org.kivy.android.PythonService").mService
    return autoclass("org.kivy.android.PythonActivity").mActivity


def manifest_value(java: Java, name: str) -> str | None:
    """Return a ``meta-data`` value of the app's manifest; None where it is missing or not a text."""
    context: Context | None = running_context(java.autoclass)
    if context is None:
        return None
    manager: type[PackageManager] = java.autoclass("android.content.pm.PackageManager")
    information = context.getPackageManager().getApplicationInfo(
        context.getPackageName(), manager.GET_META_DATA
    )
    values = information.metaData
    value = values.getString(name) if values is not None else None
    return str(value) if value is not None else None
