"""Driving dead letters again: their records go back to where they came from, and count once however often they do."""
