"""Images and signals for training and measuring: one function for every kind of source, one resumable loader."""

from .dataset import ImageDataset
from .loader import StatelessSampler, make_loader
from .opening import DataRecipe, open_dataset, open_images, open_signals
from .pictures import Pictures
from .signals import SignalDataset, SignalScale, TrainingSet

__all__ = [
    "DataRecipe",
    "ImageDataset",
    "Pictures",
    "SignalDataset",
    "SignalScale",
    "StatelessSampler",
    "TrainingSet",
    "make_loader",
    "open_dataset",
    "open_images",
    "open_signals",
]
