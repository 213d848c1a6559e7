"""Smaller vectors and smaller encoders, to be measured before they are chosen: see the evaluation report."""
