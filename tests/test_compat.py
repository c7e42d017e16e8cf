"""``gmvq.compat.VectorQuantize`` and the class it stands for: what that package's tests ask, of both of them."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gmvq
from gmvq import compat
from gmvq.convert import from_vector_quantize

D, K = 12, 16
Options = dict[str, Any]


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("vector_quantize_pytorch").VectorQuantize


@pytest.fixture(params=["ours", "theirs"])
def kind(request) -> Any:
    return compat.VectorQuantize if request.param == "ours" else request.getfixturevalue("peer")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Arguments that do nothing here are passed for theirs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "these arguments do nothing")
        yield


def build(kind: Any, **options: Any) -> Any:
    return kind(dim=D, codebook_size=K, **options)


def clusters(*shape: int) -> Tensor:
    """Latents (*shape, D) around K points."""
    points = 3 * torch.randn(K, D, generator=torch.Generator().manual_seed(1))
    return points[torch.randint(K, shape)] + 0.1 * torch.randn(*shape, D)


def started(kind: Any, **options: Any) -> Any:
    """One whose codebook has seen a batch, in eval."""
    vq = build(kind, kmeans_init=True, **options)
    x = clusters(2, 64)
    vq(
        x
        if not vq.__dict__.get("channels_first") and vq.__dict__.get("channel_last", True)
        else x.movedim(-1, 1)
    )
    return vq.eval()


#: Arrangement -> arguments, shape of x, shape of indices.
ARRANGEMENTS: dict[str, tuple[Options, tuple[int, ...], tuple[int, ...]]] = {
    "sequence": ({}, (2, 20, D), (2, 20)),
    "one token": ({}, (40, D), (40,)),
    "channels first": ({"channel_last": False}, (2, D, 20), (2, 20)),
    "image": ({"accept_image_fmap": True}, (2, D, 4, 5), (2, 4, 5)),
    "volume": ({"accept_3d_fmap": True}, (2, D, 2, 4, 5), (2, 2, 4, 5)),
    "heads": ({"heads": 3, "codebook_dim": 4}, (2, 20, D), (2, 20, 3)),
    "heads of an image, separate": (
        {"heads": 3, "codebook_dim": 4, "separate_codebook_per_head": True, "accept_image_fmap": True},
        (2, D, 4, 5),
        (2, 4, 5, 3),
    ),
    "fewer dimensions": ({"codebook_dim": 4}, (2, 20, D), (2, 20)),
    "fewer dimensions, normalised": (
        {"codebook_dim": 4, "layernorm_after_project_in": True},
        (2, 20, D),
        (2, 20),
    ),
    "heads of more dimensions": ({"heads": 2, "codebook_dim": 8}, (2, 20, D), (2, 20, 2)),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_shapes_and_gradients_in_training(kind, name) -> None:
    options, shape, wanted = ARRANGEMENTS[name]
    vq = build(kind, **options)
    x = torch.randn(*shape, requires_grad=True)
    quantized, indices, loss = vq(x)
    assert quantized.shape == shape
    assert indices.shape == wanted
    assert indices.dtype == torch.int64
    assert 0 <= int(indices.min()) <= int(indices.max()) < K
    assert loss.shape == ()
    (F.mse_loss(quantized, torch.zeros(shape)) + loss).backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_eval_is_what_its_indices_decode_to(kind, name) -> None:
    """Of an untrained one, too. Theirs does not put heads that share a codebook side by side."""
    options, shape, _ = ARRANGEMENTS[name]
    vq = build(kind, **options).eval()
    x = torch.randn(*shape)
    with torch.no_grad():
        quantized, indices, loss = vq(x)
        again = vq(x)
    if (
        kind is compat.VectorQuantize
        or options.get("heads", 1) == 1
        or "separate_codebook_per_head" in options
    ):
        torch.testing.assert_close(vq.get_output_from_indices(indices), quantized)
    assert torch.equal(again[0], quantized)
    assert torch.equal(again[1], indices)
    assert float(loss) == 0


def test_eval_changes_nothing_once_started(kind) -> None:
    vq = started(kind)
    before = {name: value.clone() for name, value in vq.state_dict().items()}
    vq(clusters(2, 64))
    assert all(torch.equal(value, before[name]) for name, value in vq.state_dict().items())


def test_a_state_dict_brings_everything_along(kind) -> None:
    vq, other = started(kind), build(kind, kmeans_init=True).eval()
    other.load_state_dict(vq.state_dict())
    x = clusters(2, 20)
    for one, two in zip(vq(x), other(x), strict=True):
        assert torch.equal(one, two)


# The codebook

CODEBOOKS: dict[str, tuple[Options, tuple[int, ...]]] = {
    "one": ({}, (K, D)),
    "between maps": ({"codebook_dim": 4}, (K, 4)),
    "of all heads": ({"heads": 3, "codebook_dim": 4}, (K, 4)),
    "of each head": ({"heads": 3, "codebook_dim": 4, "separate_codebook_per_head": True}, (3, K, 4)),
}


@pytest.mark.parametrize("name", CODEBOOKS)
def test_the_nearest_code_is_found_independently(kind, name) -> None:
    options, shape = CODEBOOKS[name]
    vq = started(kind, **options)
    x = torch.randn(2, 20, D)
    codebook = vq.codebook.detach()
    assert codebook.shape == shape
    with torch.no_grad():
        quantized, indices, _ = vq(x)
        heads = vq.project_in(x).unflatten(-1, (options.get("heads", 1), -1))
        books = codebook if codebook.ndim == 3 else codebook.expand(heads.shape[-2], -1, -1)
        nearest = (heads[..., None, :] - books).square().sum(-1).argmin(-1)
        assert torch.equal(indices.reshape(nearest.shape), nearest)
        codes = torch.stack([book[own] for book, own in zip(books, nearest.unbind(-1), strict=True)], -2)
        torch.testing.assert_close(quantized, vq.project_out(codes.flatten(-2)))


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_codebook_can_be_set(kind, name) -> None:
    options, shape = CODEBOOKS[name]
    vq = started(kind, **options)
    codes = torch.randn(shape)
    vq.codebook = codes
    torch.testing.assert_close(vq.codebook.detach(), codes)


@pytest.mark.parametrize(
    ("constructor", "call", "moves"),
    [
        ({}, {}, True),
        ({"freeze_codebook": True}, {}, False),
        ({"freeze_codebook": True}, {"freeze_codebook": False}, True),
        ({}, {"freeze_codebook": True}, False),
        ({"ema_update": False}, {}, False),
        ({}, {"ema_update": False}, False),
    ],
)
def test_freezing(kind, constructor, call, moves) -> None:
    vq = started(kind, **constructor).train()
    before = vq.codebook.detach().clone()
    x = clusters(2, 64).requires_grad_()
    quantized, indices, loss = vq(x, **call)
    torch.testing.assert_close(quantized, before[indices])
    (quantized.square().mean() + loss).backward()
    assert x.grad is not None
    assert torch.equal(vq.codebook, before) is not moves
    assert all(parameter.grad is None or moves for parameter in vq.parameters())
    quantized, *_ = vq(x)  # the next call learns as before
    assert torch.isfinite(quantized).all()


def test_a_learnable_codebook_has_a_gradient(kind) -> None:
    vq = build(kind, learnable_codebook=True, ema_update=False)
    vq(clusters(2, 64).requires_grad_())
    quantized, _, loss = vq(clusters(2, 64).requires_grad_())
    (quantized.square().mean() + loss).backward()
    assert any(
        p.shape[-2:] == (K, D) and float(p.grad.abs().sum()) > 0
        for p in vq.parameters()
        if p.grad is not None
    )


def test_dead_codes_come_back(kind) -> None:
    vq = started(kind, threshold_ema_dead_code=1).train()
    codes = torch.full((K, D), 1000.0) + torch.randn(K, D)
    codes[0] = 0.0
    vq.codebook = codes
    x = clusters(8, 64)
    assert len(vq(x, freeze_codebook=True)[1].unique()) == 1
    for _ in range(60):
        vq(clusters(8, 64))
    assert len(vq(x)[1].unique()) > K // 2


def test_it_learns(kind) -> None:
    """A linear autoencoder around it: of clusters as many as codes nearly nothing remains."""
    vq = build(kind, kmeans_init=True, threshold_ema_dead_code=2)
    encoder, decoder = nn.Linear(D, D), nn.Linear(D, D)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *vq.parameters()], 1e-2)
    for _ in range(150):
        x = clusters(4, 64)
        quantized, _, loss = vq(encoder(x))
        optimizer.zero_grad()
        (F.mse_loss(decoder(quantized), x) + loss).backward()
        optimizer.step()
    vq.eval()
    with torch.no_grad():
        x = clusters(4, 64)
        quantized, indices, _ = vq(encoder(x))
        assert float(F.mse_loss(decoder(quantized), x) / x.var()) < 0.15
    assert len(indices.unique()) > K // 2


# Masks

MASKED: dict[str, Options] = {
    "sequence": {},
    "channels first": {"channel_last": False},
    "fewer dimensions": {"codebook_dim": 3},
    "fewer dimensions, channels first": {"codebook_dim": 3, "channel_last": False},
    "heads": {"heads": 3, "codebook_dim": 4},
    "heads of fewer dimensions, separate": {
        "heads": 2,
        "codebook_dim": 3,
        "separate_codebook_per_head": True,
    },
}


def _lengths() -> tuple[Tensor, Tensor]:
    lens = torch.tensor([20, 7])
    return lens, torch.arange(20) < lens[:, None]


@pytest.mark.parametrize("name", MASKED)
def test_padding_counts_for_nothing(kind, name) -> None:
    """Padded and packed are one: indices, values, loss, gradients."""
    if kind is not compat.VectorQuantize and MASKED[name].get("codebook_dim"):
        pytest.skip("version 1.32 compares codes between the maps with latents outside, and raises")
    first = name.endswith("channels first")
    vq = started(kind, rotation_trick=False, **MASKED[name]).train()
    _, mask = _lengths()
    x = clusters(2, 20).requires_grad_()
    packed = x.detach()[mask][None].requires_grad_()
    outs = []
    for value, own in ((x, mask), (packed, None)):
        out = vq(value.movedim(-1, 1) if first else value, mask=own, freeze_codebook=True)
        outs.append((out[0].movedim(1, -1) if first else out[0], *out[1:]))
        (outs[-1][0].square().sum() + outs[-1][2]).backward()
    (quantized, indices, loss), (packed_quantized, packed_indices, packed_loss) = outs
    assert torch.equal(indices[mask], packed_indices[0])
    torch.testing.assert_close(quantized[mask], packed_quantized[0])
    torch.testing.assert_close(loss, packed_loss)
    assert (indices[~mask] == -1).all()
    assert (quantized[~mask] == 0).all()
    assert x.grad is not None
    assert packed.grad is not None
    assert (x.grad[~mask] == 0).all()
    torch.testing.assert_close(x.grad[mask], packed.grad[0])


def test_lens_are_a_mask(kind) -> None:
    vq = started(kind)
    lens, mask = _lengths()
    x = clusters(2, 20)
    for one, two in zip(vq(x, lens=lens), vq(x, mask=mask), strict=True):
        assert torch.equal(one, two)


def test_padding_may_stay_what_it_was(kind) -> None:
    vq = started(kind, return_zeros_for_masked_padding=False)
    _, mask = _lengths()
    x = clusters(2, 20)
    quantized, *_ = vq(x, mask=mask)
    assert torch.equal(quantized[~mask], x[~mask])
    assert not torch.equal(quantized[mask], x[mask])


# More about the codes


@pytest.mark.parametrize("options", [{}, {"heads": 3, "codebook_dim": 4, "separate_codebook_per_head": True}])
def test_cross_entropy_of_given_codes(kind, options) -> None:
    vq = started(kind, **options)
    x = clusters(2, 20).requires_grad_()
    right = vq(x)[1]
    wrong = (right + 1) % K
    quantized, loss = vq(x, indices=right)
    assert torch.isfinite(quantized).all()
    assert loss.shape == ()
    assert float(loss.detach()) < float(vq(x, indices=wrong)[1].detach())
    half = right.clone()
    half[:, 10:] = -1
    torch.testing.assert_close(vq(x, indices=half)[1], vq(x[:, :10], indices=right[:, :10])[1])
    loss.backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("image", [False, True])
def test_topk_in_eval(kind, image) -> None:
    vq = started(kind)
    if image:
        trained = vq.state_dict()
        vq = build(kind, kmeans_init=True, accept_image_fmap=True).eval()
        vq.load_state_dict(trained)
    x = torch.randn(2, 20, D)
    given = x.movedim(-1, 1).unflatten(-1, (4, 5)) if image else x
    quantized, indices, errors = vq(given, topk=3)
    assert quantized.shape == (*given.shape, 3) if image else (2, 20, 3, D)
    assert indices.shape == errors.shape == ((2, 4, 5, 3) if image else (2, 20, 3))
    plain = vq(given)
    assert torch.equal(indices[..., 0], plain[1])
    torch.testing.assert_close(quantized[..., 0] if image else quantized[:, :, 0], plain[0])
    assert (errors.diff(dim=-1) >= 0).all()
    codes = vq.codebook.detach()[indices]
    expected = (codes.reshape(2, 20, 3, D) - x[..., None, :]).square().mean(-1)
    torch.testing.assert_close(errors.reshape(2, 20, 3), expected)
    assert vq(given, topk=K + 5)[1].shape[-1] == K


def test_codes_are_drawn_in_training_alone(kind) -> None:
    options = {"stochastic_sample_codes": True, "sample_codebook_temp": 1.0}
    vq = started(kind, **options)
    x = vq.codebook.detach()[:2].mean(0).expand(1, 400, D)  # half-way between two codes
    assert len(vq(x)[1].unique()) == 1
    assert len(vq.train()(x, freeze_codebook=True)[1].unique()) > 1
    cold = build(kind, stochastic_sample_codes=True, sample_codebook_temp=0.0)
    cold(clusters(2, 64), freeze_codebook=True)
    assert len(cold(x, freeze_codebook=True)[1].unique()) == 1


def test_the_decoder_may_be_kept_from_the_encoder(kind) -> None:
    vq = started(kind, route_gradients_to_input=False).train()
    x = clusters(2, 20).requires_grad_()
    quantized, _, loss = vq(x)
    assert not quantized.requires_grad
    loss.backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


# Ours alone


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
        build(compat.VectorQuantize, decay=0.9, rotation_trick=True)
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
    lens, mask = _lengths()
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
