"""ONNX: a graph as an .onnx file, and such a file in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import one_line, require
from ..quiet import quiet
from .graphs import Graph, Signature

#: One file holds at most 2 GB (a limit of protobuf).
_MAX_BYTES = 2_000_000_000


def write_onnx(
    graph: Graph, file: Path, signature: Signature, *, opset: int, notes: Mapping[str, Any]
) -> None:
    """Write one graph, with the names of its axes and with ``notes`` in the file's own metadata."""
    onnx = require("onnx", "export")
    require("onnxscript", "export")
    size = sum(value.numel() * value.element_size() for value in graph.module.state_dict().values())
    if size > _MAX_BYTES:
        raise ValueError(
            f"the weights of the graph from {graph.input_name} to {graph.output_name} are {size / 1e9:.1f} GB, and an "
            "ONNX file holds 2 GB; use the format torch-export"
        )
    program = graph.program()
    with quiet("torch.onnx"):
        try:
            written = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[graph.input_name],
                output_names=[graph.output_name],
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:  # as torch.export, a class for each stage
            raise graph.failed(f"be written as ONNX with opset {opset}", error) from error
    assert written is not None
    proto = written.model_proto
    _name_axes(proto.graph, signature)
    for key, value in {**notes, "sizes": signature.constraint()}.items():
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
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for every kind of damage, none of them a ValueError
        raise ValueError(
            f"{file} is no ONNX file that onnxruntime can run: {one_line(error, 200)}; export the model again"
        ) from error
    (given,) = session.get_inputs()
    return lambda values: torch.from_numpy(session.run(None, {given.name: values.numpy()})[0])
