"""Measure a tokenizer over whole sets: image errors, codebook use, rate, posterior, bounds, FID; and report."""

from __future__ import annotations

from .codebook import CodebookReport, code_histogram, inspect_codebook
from .evaluate import Evaluation, evaluate
from .extractors import extractor_name, open_extractor
from .generation import GenerationMetrics, format_generation, generation_metrics, reconstruction_metrics
from .metrics import CodebookMetrics, ImageMetrics, per_image_mse, per_image_ssim, psnr, rates
from .pictures import decoded_codewords, save_png
from .report import write_report
from .signals import SignalMetrics
from .tables import format_table, metric_rows, write_metrics

__all__ = [
    "CodebookMetrics",
    "CodebookReport",
    "Evaluation",
    "GenerationMetrics",
    "ImageMetrics",
    "SignalMetrics",
    "code_histogram",
    "decoded_codewords",
    "evaluate",
    "extractor_name",
    "format_generation",
    "format_table",
    "generation_metrics",
    "inspect_codebook",
    "metric_rows",
    "open_extractor",
    "per_image_mse",
    "per_image_ssim",
    "psnr",
    "rates",
    "reconstruction_metrics",
    "save_png",
    "write_metrics",
    "write_report",
]
