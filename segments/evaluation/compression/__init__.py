"""Smaller vectors and smaller encoders, and what each costs in quality."""
