"""``pocketfl bench analytics``: how far noised statistics are from the exact ones."""
