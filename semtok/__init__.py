"""Item vectors to short tuples of discrete codes ("semantic IDs")."""
