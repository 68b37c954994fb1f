"""``pocketfl bench zoo``: what ten compact models cost a device, on each runtime."""
