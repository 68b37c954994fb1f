"""The back end: tasks, rounds, the model registry and the device protocol over HTTP.

It never holds an example, a label or a device's update in the clear. :mod:`.trusted` is another tier in
another process; of it, the back end uses only the client and the messages.
"""
