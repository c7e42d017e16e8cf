"""What ``gmvq.compat.VectorQuantize`` does on its own: temperatures, refusals, and every argument accounted for."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from compat_cases import D, K, build, clusters, lengths, started

import gmvq
from gmvq import compat
from gmvq.convert import from_vector_quantize


def test_draws_follow_the_tempered_posterior() -> None:
    """Counts of 20,000 draws of one position against q(c|x)^(1/t), on a support of all codes."""
    temperature = 2.0
    vq: Any = compat.VectorQuantize(D, 4, stochastic_sample_codes=True, sample_codebook_temp=temperature)
    vq(torch.randn(4, 64, D))
    x = vq.codebook.detach().mean(0).expand(1, 20000, D)
    quantized, indices, _ = vq(x, freeze_codebook=True)
    torch.testing.assert_close(quantized, vq.codebook[indices])
    q = (vq.quantizer.posterior(x[:, :1]).log_probs()[0, 0] / temperature).softmax(-1).detach()
    torch.testing.assert_close(indices.flatten().bincount(minlength=4) / 20000, q, atol=0.02, rtol=0)


@pytest.mark.parametrize("heads", [1, 2])
def test_a_call_has_its_own_temperature(heads) -> None:
    """The same draw as from a module that was built with it, gradient included, and the next call has the old one."""
    draws = []
    for own, called in ((2.0, None), (0.5, 2.0), (0.0, 2.0), (2.0, 0.0), (0.0, None)):
        torch.manual_seed(0)
        options: dict[str, Any] = {"stochastic_sample_codes": True, "heads": heads}
        vq: Any = compat.VectorQuantize(D * heads, 4, sample_codebook_temp=own, **options)
        vq.eval()(torch.randn(4, 64, D * heads))
        state = {name: value.clone() for name, value in vq.state_dict().items()}
        torch.manual_seed(1)
        x = torch.randn(2, 50, D * heads, requires_grad=True)
        quantized, indices, _ = vq.train()(x, freeze_codebook=True, sample_codebook_temp=called)
        quantized.square().sum().backward()
        draws.append((indices, quantized.detach(), x.grad))
        for name, value in vq.state_dict().items():
            assert torch.equal(value, state[name]), name
    for one, other in ((0, 1), (0, 2), (3, 4)):
        for first, second in zip(draws[one], draws[other], strict=True):
            torch.testing.assert_close(first, second)
    assert not torch.equal(draws[0][0], draws[3][0])
    with pytest.raises(ValueError, match="must not be negative"):
        compat.VectorQuantize(D, 4)(torch.randn(1, 8, D), sample_codebook_temp=-1.0)


def test_a_trained_module_with_its_maps(peer) -> None:
    theirs = started(peer, codebook_dim=4)
    ours = build(compat.VectorQuantize, codebook_dim=4).eval()
    ours.quantizer = from_vector_quantize(theirs, inner=True)
    ours.project_in, ours.project_out = theirs.project_in, theirs.project_out
    x = torch.randn(2, 20, D)
    assert torch.equal(ours(x)[1], theirs(x)[1])
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    torch.testing.assert_close(ours.codebook, theirs.codebook)


def test_loss_breakdown_is_our_terms() -> None:
    *_, terms = build(compat.VectorQuantize)(clusters(2, 64), return_loss_breakdown=True)
    assert "kl_aggregate" in terms


def test_one_warning_names_all_that_does_nothing() -> None:
    with pytest.warns(
        UserWarning, match=r"do nothing.*decay \(M-steps.*rotation_trick \(the gradient"
    ) as found:
        compat.VectorQuantize(D, K, decay=0.9, rotation_trick=True)
    assert len(found) == 1
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(compat.VectorQuantize, heads=3, codebook_dim=4, use_cosine_sim=False)


@pytest.mark.parametrize("name", compat.REFUSED)
def test_what_cannot_be_meant_is_refused(name) -> None:
    with pytest.raises(
        ValueError, match=f"{name} has no meaning for a mixture: {re.escape(compat.REFUSED[name])}"
    ):
        build(compat.VectorQuantize, **{name: 0.5})
    build(compat.VectorQuantize, **{name: None})


@pytest.mark.parametrize("name", compat.REFUSED_IN_CALL)
def test_what_a_call_cannot_mean_is_refused(name) -> None:
    with pytest.raises(ValueError, match=f"{name} has no meaning"):
        build(compat.VectorQuantize)(clusters(2, 20), **{name: torch.ones(2)})


def test_other_mistakes() -> None:
    with pytest.raises(TypeError, match="no argument colour"):
        build(compat.VectorQuantize, colour=1)
    vq = build(compat.VectorQuantize)
    with pytest.raises(ValueError, match="topk is for eval"):
        vq(clusters(2, 20), topk=2)
    with pytest.raises(ValueError, match="k must be between 1"):
        started(compat.VectorQuantize)(clusters(2, 20), topk=0)
    lens, mask = lengths()
    with pytest.raises(ValueError, match="not both"):
        vq(clusters(2, 20), mask=mask, lens=lens)
    with pytest.raises(ValueError, match="latents"):
        vq(torch.randn(2, 20, D + 1))
    vq(clusters(2, 20), freeze_codebook=True)
    assert vq.quantizer.codebook.requires_grad  # after the errors, too


def _names(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}


def test_every_argument_of_the_installed_version_is_accounted_for(peer) -> None:
    ignored = {name for names in compat.IGNORED.values() for name in names}
    own = _names(compat.VectorQuantize.__init__)
    theirs = _names(peer.__init__)
    assert own.keys() | ignored | compat.REFUSED.keys() == theirs.keys()
    assert {name: theirs[name] for name in own} == own
    assert not any(theirs[name] for name in compat.REFUSED), "theirs is refused at its default"
    own, theirs = _names(compat.VectorQuantize.forward), _names(peer.forward)
    assert own.keys() | compat.REFUSED_IN_CALL.keys() == theirs.keys()
    assert {name: theirs[name] for name in own} == own
    positional = [
        p.name
        for p in inspect.signature(compat.VectorQuantize).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert positional == list(_names(peer.__init__))[: len(positional)]


def test_the_table_of_the_docs_has_every_argument(peer) -> None:
    page = (Path(gmvq.__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
    for title, function in (("The constructor", peer.__init__), ("The call", peer.forward)):
        table = page.partition(f"### {title}\n")[2].partition("\n#")[0]
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
        assert sorted(names) == sorted(_names(function))
