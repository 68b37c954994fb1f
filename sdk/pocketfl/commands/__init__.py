"""The ``pocketfl`` command line; needs the extra ``cli``."""
