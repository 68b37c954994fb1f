"""One module for each revision; one that was ever on the main branch never changes."""
