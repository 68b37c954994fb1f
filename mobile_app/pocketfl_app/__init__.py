"""The PocketFL app: draw digits, train on them here, and take part in private rounds.

``device`` is what the app asks of the SDK, ``worker`` the process that trains, ``view_models`` what
the screens show, ``screens`` and ``widgets`` how it looks. Data flows one way, from device to screen.
"""
