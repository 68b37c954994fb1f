"""Anonymous check-in, the back end's half: signing tokens unseen, and taking each once."""
