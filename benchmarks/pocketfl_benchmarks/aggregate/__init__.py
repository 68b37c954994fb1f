"""``pocketfl bench aggregate``: how many reports the trusted tier sums in a second."""
