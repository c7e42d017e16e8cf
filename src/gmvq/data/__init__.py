"""Images and signals for training and measuring: one function for every kind of source, one resumable loader."""

from .dataset import ImageDataset
from .loader import make_loader
from .opening import open_dataset, open_images, open_signals
from .pictures import Source
from .recipe import DataRecipe
from .sampler import StatelessSampler
from .scale import SignalScale
from .signals import SignalDataset, TrainingSet

__all__ = [
    "DataRecipe",
    "ImageDataset",
    "SignalDataset",
    "SignalScale",
    "Source",
    "StatelessSampler",
    "TrainingSet",
    "make_loader",
    "open_dataset",
    "open_images",
    "open_signals",
]
