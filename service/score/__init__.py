"""Scores files of texts, from end to end through the engine."""
