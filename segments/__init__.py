"""What a vector is: specs, fold, read-out, encoders, fusions, bundles, training, evaluation. No I/O but files.

Importing a module of this room imports no torch, except `encoders`, `model` and `training`.
"""
