"""Images for training and measuring: one function for every kind of source, one resumable loader."""

from gmvq.data.dataset import ImageDataset
from gmvq.data.loader import make_loader
from gmvq.data.opening import open_images
from gmvq.data.sampler import StatelessSampler
from gmvq.data.source import Source

__all__ = ["ImageDataset", "Source", "StatelessSampler", "make_loader", "open_images"]
