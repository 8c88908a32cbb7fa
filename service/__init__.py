"""Answers requests: an HTTP service over verified model versions. Imports models, is imported by nobody."""
