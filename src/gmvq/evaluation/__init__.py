"""Measure a tokenizer over whole sets: image errors, codebook use, rate, posterior, bounds; and report."""

from __future__ import annotations

from .codebook import CodebookReport, code_histogram, inspect_codebook
from .evaluate import Evaluation, evaluate
from .metrics import CodebookMetrics, ImageMetrics, per_image_mse, per_image_ssim, psnr, rates
from .pictures import decoded_codewords, save_png
from .report import write_report
from .tables import format_table, metric_rows, write_metrics

__all__ = [
    "CodebookMetrics",
    "CodebookReport",
    "Evaluation",
    "ImageMetrics",
    "code_histogram",
    "decoded_codewords",
    "evaluate",
    "format_table",
    "inspect_codebook",
    "metric_rows",
    "per_image_mse",
    "per_image_ssim",
    "psnr",
    "rates",
    "save_png",
    "write_metrics",
    "write_report",
]
