"""The report: self-contained, escaped, tolerant of what a run left behind."""

from __future__ import annotations

import html
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from gmvq.errors import MissingExtraError
from gmvq.evaluation import evaluate, format_table, write_metrics, write_report
from gmvq.evaluation.history import read_history, thin
from gmvq.evaluation.plots import line_chart
from gmvq.objectives import GaussianLikelihood

TITLE, COMMAND = "A <b>run</b> & more", ["gmvq", "train", "--name", "two words", "<&>"]


class Links(HTMLParser):
    """Collects every tag, and every attribute through which a page could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
        self.links += [value or "" for name, value in attrs if name in names]


@pytest.fixture
def run(tmp_path: Path, tokenizer: Any, dataset: Any) -> Path:
    result = evaluate(tokenizer, dataset, likelihood=GaussianLikelihood(0.2))
    reasons = {"<img src=x>": "<script>alert(3)</script>"}
    write_metrics(tmp_path / "metrics.json", {**result.to_dict(), "skipped": reasons})
    rows = [
        {
            "step": step,
            "train/mse": 1 / (step + 1),
            "train/kl_aggregate": 0.1,
            "train/conditional_entropy": 0.5,
            "train/perplexity": float(step),
            "train/temperature": 0.5,
            **({"validation/mse": 0.5} if step == 9 else {}),
        }
        for step in range(10)
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "history.jsonl").write_text("\n".join(lines) + '\n{"step": 10, "train/m')
    (tmp_path / "config.yaml").write_text("note: '</pre><script>alert(2)</script>'\n")
    return tmp_path


def test_report_is_whole_escaped_and_loads_nothing(run: Path, tokenizer: Any, dataset: Any) -> None:
    import matplotlib

    settings = dict(matplotlib.rcParams)
    path = write_report(run, tokenizer, dataset, title=TITLE, command=COMMAND, images=3)
    text = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    for heading in ("Reconstructions", "Metrics", "Codebook", "Training", "Reproduce", "Configuration"):
        assert f">{heading}</h" in text
    for plot in ("Reconstruction", "Perplexity", "Entropies", "Temperature and noise", "Nearest pairs"):
        assert f"<h3>{plot}</h3>" in text
    assert "1 line(s) of history.jsonl could not be read" in text
    assert "gmvq train --name 'two words' '<&>'" in html.unescape(text)
    assert torch.__version__ in text
    assert text.count("image &lt;") == 3 * 5  # three names, each once in sight and in four alternative texts
    assert len(re.findall(r"[\d.]+ dB</b>", text)) == 3
    assert text.count("<svg") == 2 + 5

    page = Links(text)
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert "default-src 'none'" in text

    assert "<script" not in text
    assert "<b>run" not in text
    assert "<img src=x" not in text
    assert text.count("A &lt;b&gt;run&lt;/b&gt; &amp; more") == 2
    assert dict(matplotlib.rcParams) == settings


def test_an_empty_run_still_gives_a_report(tmp_path: Path, tokenizer: Any, dataset: Any) -> None:
    text = write_report(tmp_path / "new", tokenizer, dataset, title="t", command="c", images=0).read_text()
    assert "the model was not evaluated" in text
    assert "no history.jsonl" in text
    assert ">Reconstructions<" not in text
    (tmp_path / "new" / "metrics.json").write_text('{"mse":')
    text = write_report(tmp_path / "new", tokenizer, dataset, title="t", command="c", images=0).read_text()
    assert "metrics.json cannot be read" in text
    assert [file.name for file in (tmp_path / "new").iterdir() if file.name.startswith(".")] == []


def test_other_quantizers_grey_images_and_loaders(
    tmp_path: Path, plain_tokenizer: Any, tokenizer_of: type, hand_mixture: type, images_of: type
) -> None:
    loader = DataLoader(images_of(), batch_size=4)
    text = write_report(tmp_path, plain_tokenizer, loader, title="t", command="c").read_text()
    assert "gives no uncertainty" in text
    assert "effective number" not in text
    grey = tokenizer_of(hand_mixture(torch.linspace(0, 1, 5)[:, None]))
    batches = [images_of(3, 8, channels=1).images]
    text = write_report(tmp_path, grey, batches, title="t", command="c", images=2).read_text()
    assert "item 1" in text
    assert "uncertainty" in text
    plain_tokenizer.quantizer.codebook_size = 9  # an index is now more than the codebook holds
    text = write_report(tmp_path, plain_tokenizer, images_of(), title="t", command="c", images=1).read_text()
    assert "no single codebook" in text
    assert "cannot be shown as pictures" in text


def test_missing_matplotlib_names_the_extra(
    tmp_path: Path, tokenizer: Any, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"\.\[train\]"):
        write_report(tmp_path, tokenizer, dataset, title="t", command="c")


def test_history_tolerates_kills_resumes_and_odd_values(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(
        '{"step": 0, "a": 1, "word": "x", "flag": true}\n{"step": 2, "a": 3}\n{"st\n[1]\n{"a": 4}\n\n'
        '{"step": 1, "a": 2, "b": NaN}\n{"step": 2, "a": 5, "c": 7}\n{"step": 3, "a'
    )
    history = read_history(file)
    assert history.curves == {"a": ([0, 1, 2], [1, 2, 5]), "c": ([2], [7])}
    assert (history.broken_lines, history.last_step) == (4, 2)
    empty = read_history(tmp_path / "absent.jsonl")
    assert (empty.curves, empty.broken_lines, empty.last_step) == ({}, 0, None)


def test_long_curves_are_drawn_as_means() -> None:
    steps = [float(i) for i in range(7)]
    assert thin(steps, steps, most=7) == (steps, steps)
    assert thin(steps, steps, most=3) == ([1.0, 4.0, 6.0], [1.0, 4.0, 6.0])


def test_a_logarithmic_axis_leaves_out_the_zeros_before_the_codebook() -> None:
    early = ("precision", [0.0, 1.0, 2.0], [0.0, 1e-3, 1e-6])
    later = ("precision", [1.0, 2.0], [1e-3, 1e-6])
    assert _axes(line_chart([early], label="w", log=True)) == _axes(line_chart([later], label="w", log=True))
    assert _axes(line_chart([early], label="w")) != _axes(line_chart([later], label="w"))
    nothing = ("precision", [0.0, 1.0], [0.0, 0.0])
    assert "<svg" in line_chart([nothing], label="w", log=True)


def _axes(svg: str) -> list[str]:
    """The places of all tick marks and curves."""
    return re.findall(r' d="(.*?)"', svg, re.DOTALL)


def test_waiting_for_data_is_reported_where_it_is_much(tmp_path: Path, tokenizer: Any, dataset: Any) -> None:
    for share, told in ((0.31, True), (0.04, False)):
        (tmp_path / "run.json").write_text(json.dumps([{}, {"data_wait": share}]))
        text = write_report(tmp_path, tokenizer, dataset, title="t", command="c", images=0).read_text()
        assert ("31% of the training time was spent waiting for data" in text) == told
        assert ("waiting for data" in text) == told


def test_a_small_sample_says_what_full_use_would_show(tmp_path: Path, tokenizer: Any, dataset: Any) -> None:
    figures = {
        "images": 5,
        "positions_per_image": 64.0,
        "codebook_size": 256,
        "usage": 0.367,
        "perplexity": 61.0,
    }
    note = "usage of 71.4% and a perplexity of 161.2 would be expected"
    assert note in format_table(figures)
    write_metrics(tmp_path / "metrics.json", figures)
    text = write_report(tmp_path, tokenizer, dataset, title="t", command="c", images=0).read_text()
    assert note in text
    assert "of 161 expected at full use" in text
    assert "would be expected" not in format_table({**figures, "images": 500})
