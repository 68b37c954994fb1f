"""What the app asks of the SDK: drawings, models, rounds and accounts, without a word of the screen."""
