"""Images and signals for training and measuring: one function for every kind of source, one resumable loader."""

from gmvq.data.dataset import ImageDataset
from gmvq.data.loader import make_loader
from gmvq.data.opening import open_dataset, open_images, open_signals
from gmvq.data.pictures import Source
from gmvq.data.recipe import DataRecipe
from gmvq.data.sampler import StatelessSampler
from gmvq.data.scale import SignalScale
from gmvq.data.signals import SignalDataset, TrainingSet

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
