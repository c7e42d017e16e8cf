"""The formats: a graph as a file, and such a file as a function.

ONNX runs in onnxruntime. ``torch.export`` programs are kept as they are, or compiled ahead of time by AOTInductor into
a library for this machine.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import as_value_error, require
from ..files import write_bytes
from ..screen import quiet
from .graphs import Graph, Signature

#: format -> names of the encoder's and the decoder's file.
FORMATS: dict[str, tuple[str, str]] = {
    "onnx": ("encoder.onnx", "decoder.onnx"),
    "torch-export": ("encoder.pt2", "decoder.pt2"),
    "aoti": ("encoder.aoti.pt2", "decoder.aoti.pt2"),
}
#: format -> packages that it needs.
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": (), "aoti": ()}
#: What export.json says that an ONNX file says, too.
_KEPT = ("signature", "quantizer", "model", "versions")
#: One file holds at most 2 GB (a limit of protobuf).
_MAX_BYTES = 2_000_000_000


def write_graph(graph: Graph, file: Path, signature: Signature, notes: dict[str, Any]) -> None:
    """Write one graph in the format of ``notes``, which are those of export.json."""
    if notes["format"] == "onnx":
        write_onnx(graph, file, signature, notes)
    elif notes["format"] == "torch-export":
        write_program(graph, file)
    else:
        write_aoti(graph, file)


def load_graph(format: str, file: Path) -> Callable[[Tensor], Tensor]:
    """A file of ``write_graph``; those of torch.export and AOTInductor may run code in them."""
    if format == "onnx":
        return load_onnx(file)
    if format == "torch-export":
        with quiet():
            return torch.export.load(file).module()
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(file))


def write_onnx(graph: Graph, file: Path, signature: Signature, notes: dict[str, Any]) -> None:
    """Write one graph, with the names of its axes and with some of ``notes`` in the file's own metadata."""
    onnx = require("onnx", "export")
    require("onnxscript", "export")
    size = sum(value.numel() * value.element_size() for value in graph.module.state_dict().values())
    if size > _MAX_BYTES:
        raise ValueError(
            f"the weights of the graph from {graph.input_name} to {graph.output_name} are {size / 1e9:.1f} GB, and an "
            "ONNX file holds 2 GB; use the format torch-export"
        )
    program = graph.program()
    with quiet("torch.onnx"), graph.able_to(f"be written as ONNX with opset {notes['opset']}"):
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[graph.input_name],
            output_names=[graph.output_name],
            opset_version=notes["opset"],
            verbose=False,
        )
    assert written is not None
    proto = written.model_proto
    _name_axes(proto.graph, signature)
    for key, value in {**{key: notes[key] for key in _KEPT}, "sizes": signature.constraint()}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    onnx.checker.check_model(proto)
    onnx.save(proto, file)


def _name_axes(graph: Any, signature: Signature) -> None:
    """Give the free axes of input and output the names of the signature, and drop those in between."""
    shapes = {"images": signature.image_shape(), "indices": signature.indices_shape()}
    for value in (*graph.input, *graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            if isinstance(name, str):
                axis.dim_param = name
    del graph.value_info[:]


def load_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    """A file of ``write_onnx`` in onnxruntime, on the CPU, with as many threads as torch has."""
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    what = f"{file} is no ONNX file that onnxruntime can run"
    # onnxruntime has a class for every kind of damage, none of them a ValueError.
    with as_value_error(what, Exception, advice="export the model again"):
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda values: torch.from_numpy(session.run(None, {given.name: values.numpy()})[0])


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
    program = graph.program()
    from torch._inductor import aoti_compile_and_package

    with graph.able_to("be compiled"), quiet(), torch.no_grad():
        aoti_compile_and_package(program, package_path=str(file))


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
