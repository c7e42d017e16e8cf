"""A trained tokenizer as two files that run without this package: images to indices, and indices to images.

``export_model`` writes them as ONNX, as ``torch.export`` programs or compiled ahead of time (AOTInductor), after
checking each against the model; ``load_exported`` runs them with the checks that the files themselves cannot hold.
"""

from __future__ import annotations

from .check import Agreement, ExportMismatchError
from .files import Exported, load_exported
from .formats import FORMATS
from .graphs import Signature, signature_of
from .write import export_model

__all__ = [
    "FORMATS",
    "Agreement",
    "ExportMismatchError",
    "Exported",
    "Signature",
    "export_model",
    "load_exported",
    "signature_of",
]
