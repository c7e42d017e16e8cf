"""Autoencoders around a quantizer: default networks, any other networks, saving and loading."""

from .autoencoder import AutoencoderOutput, QuantizerLike, VQAutoencoder, build_autoencoder
from .nets import Decoder, Encoder, build_networks, build_networks_1d
from .precision import autocast_dtype, recommended_precision

__all__ = [
    "AutoencoderOutput",
    "Decoder",
    "Encoder",
    "QuantizerLike",
    "VQAutoencoder",
    "autocast_dtype",
    "build_autoencoder",
    "build_networks",
    "build_networks_1d",
    "recommended_precision",
]
