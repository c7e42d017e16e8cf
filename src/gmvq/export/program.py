"""``torch.export`` programs, as they are or compiled ahead of time by AOTInductor into a library for this machine."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_bytes
from ..quiet import quiet
from .graphs import Graph


def write_program(graph: Graph, file: Path) -> None:
    """Write one graph as a .pt2 file for ``torch.export.load``."""
    program = graph.program()
    # Not to the file at once: on a full disk torch's own writer ends the process.
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    write_bytes(file, buffer.getvalue())


def write_aoti(graph: Graph, file: Path) -> None:
    """Compile one graph for this machine's CPU into a package for ``torch._inductor.aoti_load_package``."""
    check_compiler()
    program = graph.program()
    from torch._inductor import aoti_compile_and_package

    try:
        with quiet(), torch.no_grad():
            aoti_compile_and_package(program, package_path=str(file))
    except Exception as error:  # whatever code generation and the compiler raise
        raise graph.failed("be compiled", error) from error


def check_compiler() -> None:
    """Raise FileNotFoundError unless AOTInductor finds a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise FileNotFoundError(
            "the format aoti compiles C++ and finds no compiler; install g++ (or name one in the environment variable "
            "CXX), or use the format torch-export"
        ) from error


class ProgramRunner:
    """Two loaded programs."""

    def __init__(self, encoder: Callable[[Tensor], Any], decoder: Callable[[Tensor], Any]) -> None:
        self._encoder, self._decoder = encoder, decoder

    @classmethod
    def of_programs(cls, encoder: Path, decoder: Path) -> ProgramRunner:
        """From two files of ``write_program``."""
        with quiet():
            return cls(*(torch.export.load(file).module() for file in (encoder, decoder)))

    @classmethod
    def of_packages(cls, encoder: Path, decoder: Path) -> ProgramRunner:
        """From two files of ``write_aoti``; this runs machine code in them."""
        from torch._inductor import aoti_load_package

        return cls(*(aoti_load_package(str(file)) for file in (encoder, decoder)))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, C, *size) to (B, *spatial, *index_shape)."""
        return self._encoder(images)

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """(B, *spatial, *index_shape) to (B, C, *size)."""
        return self._decoder(indices)
