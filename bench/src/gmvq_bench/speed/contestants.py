"""Who takes part: a registry of layers and indexes, what each can do, and how much memory it will want."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gmvq.errors import MissingExtraError
from gmvq.functional.cells import LEAST_ROWS
from gmvq.functional.search import best_code
from gmvq.quantizers import GaussianMixtureVQ
from gmvq.quantizers.start import fit_log_precision

from ..rivals import build_baseline
from ..rivals.peers import Rows, fsq_levels, peer, power_of_two

#: The search without cells.
ALL_PRODUCTS = "gm-vq search, all products"
#: The search of a package for k-means on GPUs.
FLASH = "flash-kmeans argmin"
MODES = ("forward", "train", "eval", "search")
#: Clusters, and their standard deviation where that of their places is 1.
_CLUSTERS, _WIDTH = 1024, 0.1
LAYER_MODES = ("forward", "train", "eval")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One problem: N latents of D features, K codes; ``data`` is "normal", or "clusters" around 1,024 places."""

    mode: str
    n: int
    k: int
    d: int
    dtype: str = "fp32"
    device: torch.device = torch.device("cpu")
    data: str = "normal"

    @property
    def name(self) -> str:
        text = f"{self.mode} N={self.n} K={self.k} D={self.d} {self.dtype}"
        return text if self.data == "normal" else f"{text} {self.data}"

    def latents(self, seed: int = 0, rows: int | None = None) -> Tensor:
        """Rows (N, D)."""
        return self._drawn(rows or self.n, seed).to(self.device, DTYPES[self.dtype])

    def codes(self) -> Tensor:
        """The codebook of every search, (K, D): drawn as the latents are, float32."""
        return self._drawn(self.k, 1).to(self.device)

    def _drawn(self, rows: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(rows, self.d, generator=generator)
        if self.data == "normal":
            return drawn
        places = torch.randn(_CLUSTERS, self.d, generator=torch.Generator().manual_seed(3))
        return places[torch.randint(_CLUSTERS, (rows,), generator=generator)] + _WIDTH * drawn


@dataclass(frozen=True)
class Contestant:
    """A way to quantize.

    Attributes:
        build: case -> a layer, ``layer(latents)`` -> quantized, indices, losses; for ``search`` a function of latents.
            ValueError: the contestant has no form of this size.
        n_by_k: how many N x K float32 tensors it holds at its peak, by mode; 0 where it works in blocks.
        modes: what it can do.
        ours: a quantizer of gmvq, which is compared with the reference before anything is timed.
        module: what it needs installed.
        device: the one kind of device that it runs on; None: any.
    """

    name: str
    build: Callable[[Case], Any]
    n_by_k: dict[str, float] = field(default_factory=dict)
    modes: tuple[str, ...] = LAYER_MODES
    ours: bool = False
    module: str | None = None
    device: str | None = None

    def bytes(self, case: Case) -> float:
        """Estimate of the memory of one call: N x K tensors, a few copies of inputs and codebook, 64 MiB."""
        pairs = self.n_by_k.get(case.mode, 0.0) * case.n * case.k * 4.0
        return pairs + 4.0 * (12 * case.n + 6 * case.k) * case.d + 2**26

    def obstacle(self, case: Case, memory: float) -> str:
        """Why it takes no part in a case; empty if it does."""
        if case.mode not in self.modes:
            return f"has no {case.mode}"
        if self.device not in (None, case.device.type):
            return f"runs on {self.device} alone"
        if self.module is not None:
            try:
                peer(self.module)
            except MissingExtraError as error:
                return str(error)
        if self.bytes(case) > memory:
            return f"would take about {self.bytes(case) / 1e9:.0f} GB, more than {memory / 1e9:.0f}"
        return ""


def gm_vq(**options: Any) -> Callable[[Case], GaussianMixtureVQ]:
    """A builder of our layer with options: the case's codes, the precision that fits its latents."""

    def build(case: Case) -> GaussianMixtureVQ:
        layer = GaussianMixtureVQ(case.d, case.k, **options).to(case.device)
        rows = case.latents(seed=2, rows=2048).float()
        with torch.no_grad():
            layer.mean.copy_(rows.mean(0))
            layer.scale.fill_((rows - layer.mean).square().mean().sqrt())
            layer.codebook.copy_(layer.standardized(case.codes()))
            layer.log_precision.fill_(fit_log_precision(layer.standardized(rows[:1024]), layer.codebook))
        return layer

    return build


def _peer(name: str, **options: Any) -> Callable[[Case], nn.Module]:
    """A layer of vector-quantize-pytorch."""

    def build(case: Case) -> nn.Module:
        if name == "FSQ":
            sizes: dict[str, Any] = {"levels": fsq_levels(case.k)}
        else:
            sizes = {"codebook_size": case.k}
        if name == "LFQ":
            power_of_two(case.k, 2, "lfq")
        cls = getattr(peer("vector_quantize_pytorch"), name)
        return Rows(cls(dim=case.d, **sizes, **options)).to(case.device)

    return build


def _functional_search(case: Case) -> Callable[[Tensor], Tensor]:
    codes = case.codes()
    bias = -0.5 * codes.square().sum(-1)
    return lambda latents: best_code(latents, codes, bias)[1]


def _all_products(case: Case) -> Callable[[Tensor], Tensor]:
    """The same search, of fewer rows at a time than cells are made for."""
    search = _functional_search(case)
    return lambda latents: torch.cat([search(part) for part in latents.split(LEAST_ROWS - 1)])


def _faiss(inner_product: bool) -> Callable[[Case], Callable[[Tensor], Tensor]]:
    """A flat index; the inner product finds the nearest code with |mu|^2 as one more feature."""

    def build(case: Case) -> Callable[[Tensor], Tensor]:
        if case.device.type != "cpu" or case.dtype != "fp32":
            raise ValueError("faiss takes part on the CPU in float32")
        faiss = peer("faiss")
        faiss.omp_set_num_threads(torch.get_num_threads())
        codes = case.codes()
        if inner_product:
            codes = torch.cat([codes, -0.5 * codes.square().sum(-1, keepdim=True)], 1)
        index = (faiss.IndexFlatIP if inner_product else faiss.IndexFlatL2)(codes.shape[1])
        index.add(codes.numpy())

        def search(latents: Tensor) -> Tensor:
            query = torch.cat([latents, latents.new_ones(len(latents), 1)], 1) if inner_product else latents
            return torch.from_numpy(index.search(query.numpy(), 1)[1][:, 0])

        return search

    return build


def _flash_kmeans(case: Case) -> Callable[[Tensor], Tensor]:
    """The assignment of flash-kmeans: nearest codes from float32 distances, without regard to their rounding."""
    assign = peer("flash_kmeans.assign_euclid_triton").euclid_assign_triton
    codes = case.codes().to(DTYPES[case.dtype])[None]
    squares = codes.float().square().sum(-1)

    def search(latents: Tensor) -> Tensor:
        rows = latents[None]
        return assign(rows, codes, rows.float().square().sum(-1), c_sq=squares)[0].long()

    return search


def _package(
    name: str, layer: str, n_by_k: tuple[float, float, float] = (0.0, 0.0, 0.0), **options: Any
) -> Contestant:
    tensors: dict[str, float] = dict(zip(LAYER_MODES, n_by_k, strict=True))
    return Contestant(name, _peer(layer, **options), tensors, module="vector_quantize_pytorch")


_VQ, _FAISS = ("VectorQuantize", (5.0, 6.0, 4.0)), {"modes": ("search",), "module": "faiss"}
#: In the order of the tables. The first of ours is the layer as it comes, "VectorQuantize" is the peer.
CONTESTANTS: dict[str, Contestant] = {
    c.name: c
    for c in (
        Contestant("gm-vq", gm_vq(), ours=True),
        *(Contestant(f"gm-vq support={k}", gm_vq(support=k), ours=True) for k in (8, 16, 32)),
        Contestant("gm-vq all codes", gm_vq(support=None), ours=True),
        # Its defaults: EMA codebook, in 1.32 with the rotation trick.
        _package("VectorQuantize", *_VQ),
        _package("VectorQuantize EMA", *_VQ, rotation_trick=False),
        # Asked for by name; where it is the default, the two rows differ by noise alone.
        _package("VectorQuantize rotation", *_VQ, rotation_trick=True),
        _package("VectorQuantize learnable", *_VQ, learnable_codebook=True, ema_update=False),
        _package("VectorQuantize cosine", *_VQ, use_cosine_sim=True),
        _package("SimVQ", "SimVQ", (2.0, 2.0, 2.0)),
        # The next two have no codebook: levels of 8 and 4 with the product K, and log2 K signs.
        _package("FSQ", "FSQ"),
        _package("LFQ", "LFQ", (7.0, 8.0, 2.0)),
        Contestant(
            "SQ-VAE",
            lambda case: build_baseline("sq-vae", case.d, case.k).to(case.device),
            {"forward": 8.0, "train": 8.0, "eval": 3.0},
        ),
        Contestant("gm-vq search", _functional_search, modes=("search",)),
        Contestant(ALL_PRODUCTS, _all_products, modes=("search",)),
        # All checks included.
        Contestant("gm-vq encode", lambda case: gm_vq()(case).eval().encode, modes=("search",)),
        Contestant("faiss IndexFlatL2", _faiss(False), **_FAISS),
        # D + 1 features, the last -|mu|^2 / 2.
        Contestant("faiss IndexFlatIP", _faiss(True), **_FAISS),
        Contestant(FLASH, _flash_kmeans, modes=("search",), module="flash_kmeans", device="cuda"),
    )
}
