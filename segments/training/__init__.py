"""Training a bundle: the same fold that serves, replayed to each moment, into the weights of encoders and fusions."""

from forebay.segments.training.options import RetrieveOptions, TrainingOptions
from forebay.segments.training.recipe import train, train_segment, untrained

__all__ = ["RetrieveOptions", "TrainingOptions", "train", "train_segment", "untrained"]
