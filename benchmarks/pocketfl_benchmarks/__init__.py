"""The demo, and timings against peers: all that needs every other package at once."""
