"""The process that trains.

ExecuTorch's Python bindings hold the interpreter's lock for a whole step, and a step of a large model
may take a second: in the app's own process the screen would stand still. So the app starts a worker (a
process on a desktop, a service on Android), and both talk in lines of JSON over a socket on loopback.
"""
