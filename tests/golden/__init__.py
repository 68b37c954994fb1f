"""Plans of every released schema, and what eager torch makes of them; never changed, only added to."""
