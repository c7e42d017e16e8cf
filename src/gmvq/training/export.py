"""What a finished run leaves behind: the model to ship, its figures on the test images, a report to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..evaluation import Evaluation, evaluate, write_metrics, write_report
from ..files import PathLike
from ..reading import read_json
from .checkpoint import EXPORT, likelihood_notes
from .data import ImageDataModule
from .module import TokenizerModule


def export_run(
    run_dir: PathLike,
    module: TokenizerModule,
    data: ImageDataModule,
    *,
    step: int,
    command: str | Sequence[str],
    bound_samples: int = 0,
    device: torch.device | str | None = None,
) -> Evaluation | None:
    """Write ``model/``, ``metrics.json`` and ``report.html`` into a run folder; return the figures on the test images.

    The model is written first, so that it is there even if the evaluation is interrupted; then again with its
    figures in the metadata. A model without codes, whose quantizer was frozen from the first, has no figures: None.
    """
    folder = Path(run_dir)
    module.model.eval()  # which starts the codebook of a training that was too short for one
    metadata: dict[str, Any] = {
        "step": step,
        "data": data.settings,
        "likelihood": likelihood_notes(module.settings, module.likelihood.state_dict()),
        "settings": module.settings,
    }
    module.model.save_pretrained(folder / EXPORT, metadata=metadata)
    if not all(mixture.started for mixture in module._mixtures().values()):
        return None
    images = data.dataset("test")
    metadata["data"] = {**data.settings, "test": images.description}
    evaluation = evaluate(
        module.model,
        images,
        batch_size=data.batch_size,
        likelihood=module.likelihood,
        bound_samples=bound_samples,
        device=device,
    )
    figures = read_json(write_metrics(folder / "metrics.json", evaluation))
    module.model.save_pretrained(folder / EXPORT, metadata={**metadata, "metrics": figures})
    write_report(folder, module.model, images, title=folder.name, command=command)
    return evaluation
