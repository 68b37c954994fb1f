"""``pocketfl bench device``: what the SDK costs the device that embeds it."""
