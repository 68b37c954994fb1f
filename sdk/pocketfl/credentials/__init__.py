"""Anonymous single-use tokens: the right to check in once, without saying who does.

An enrolled device asks for a token for each round ahead of time, and the back end signs it without
seeing it (RFC 9474, RFC 9578). At check-in the token shows that some enrolled device may take part, and
not which: the back end cannot tell the token from any other that it signed for that round.
"""
