"""``pocketfl bench encoding``: what compact updates save and what they cost."""
