"""Logs to try a spec with: MovieLens-100K, read in place, and a synthetic world whose rules are known."""
