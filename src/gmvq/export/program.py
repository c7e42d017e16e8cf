"""``torch.export`` programs, as they are or compiled ahead of time by AOTInductor into a library for this machine."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

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


def load_program(file: Path) -> Callable[[Tensor], Tensor]:
    """A file of ``write_program``."""
    with quiet():
        return torch.export.load(file).module()


def load_aoti(file: Path) -> Callable[[Tensor], Tensor]:
    """A file of ``write_aoti``; this runs machine code in it."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(file))
