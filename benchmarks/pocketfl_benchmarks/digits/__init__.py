"""Handwritten digits: the app's bundled plan, and the writers of its demo."""
