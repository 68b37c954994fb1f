"""``pocketfl serve`` and ``pocketfl task``: run a deployment, and work with its tasks."""
