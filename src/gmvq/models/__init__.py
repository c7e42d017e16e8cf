"""Autoencoders around a quantizer: default networks, any other networks, saving and loading."""

from ..functional.autocast import autocast_dtype, recommended_precision
from .autoencoder import AutoencoderOutput, VQAutoencoder, build_autoencoder
from .card import model_card
from .diffusers_adapter import GMVQModel
from .diffusers_networks import read_diffusers
from .interface import QuantizerLike
from .nets import Decoder, Encoder, build_networks, build_networks_1d
from .weights import model_digest

__all__ = [
    "AutoencoderOutput",
    "Decoder",
    "Encoder",
    "GMVQModel",
    "QuantizerLike",
    "VQAutoencoder",
    "autocast_dtype",
    "build_autoencoder",
    "build_networks",
    "build_networks_1d",
    "model_card",
    "model_digest",
    "read_diffusers",
    "recommended_precision",
]
