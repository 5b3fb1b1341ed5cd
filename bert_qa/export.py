"""Torch models to ONNX: one graph of standard operators, INT8 weights stored as INT8.

Exports, folds the quantized weights, writes a folder that Optimum and transformers load as it is,
and compares the graph with the torch model it came from. Knows nothing of how that was trained.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from nncf.onnx.graph.passes import compress_quantize_weights_transformation
from numpy.typing import NDArray
from onnx_ir.passes import common as passes
from pydantic import BaseModel
from torch import nn

from bert_qa.checkpoints import copy_tokenizer, torch_forward
from bert_qa.errors import UserError
from bert_qa.files import hash_file
from bert_qa.logits import relative_rms, run_windows
from bert_qa.windows import WindowSet

OPSET = 17
"""LayerNormalization became one operator in opset 17; NNCF's folding of weights knows up to 21."""

MAX_BYTES = 2**31 - 2**24
"""A protobuf message ends at 2 GiB; 16 MiB are left for all that is not a tensor."""

OUTPUTS = ("start_logits", "end_logits")


class _Logits(nn.Module):
    """The model with its inputs in the order of `names` and its two outputs as a tuple."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)))
        return output.start_logits, output.end_logits


def to_onnx(model: nn.Module, examples: WindowSet, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Export a model, plain or with torch's fake-quantize operators, to ONNX.

    Args:
        examples: a few windows to trace the model with.
        metadata: kept in the model's `metadata_props`, in the order of its keys.

    Returns:
        Inputs as in `bert_qa.windows.WindowSet.pad`, outputs `start_logits` and `end_logits`,
        float32; batch and length dynamic. Weights of quantized layers are INT8 initializers.

    Raises:
        UserError: the model is too large for one ONNX file.
    """
    check_size(sum(p.numel() * p.element_size() for p in model.parameters()))
    arrays = examples.pad()
    names = list(arrays)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "model.onnx"
        # The TorchScript exporter is the one that knows fake_quantize operators.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            # In evaluation mode itself: the exporter puts all of it back into the mode it found.
            _Logits(model, names).eval(),
            tuple(torch.from_numpy(array) for array in arrays.values()),
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*names, *OUTPUTS)},
        )
        graph = _fold_quantized_weights(file)
    onnx.helper.set_model_props(graph, {key: metadata[key] for key in sorted(metadata)})
    return graph


def check_size(size: int) -> None:
    """Refuse a model whose FP32 tensors, of `size` bytes, one ONNX file cannot hold.

    Raises:
        UserError: it cannot.
    """
    if size > MAX_BYTES:
        raise UserError(
            f"the model has {size / 1e9:.1f} GB of FP32 tensors, and one ONNX file holds"
            f" {MAX_BYTES / 1e9:.1f}; use a smaller model"
        )


class _MainIdentityElimination(onnx_ir.passes.InPlacePass):  # type: ignore[misc]
    """Removes Identity nodes, but of the branches of an If, where `IdentityEliminationPass` fails.

    DeBERTa's relative positions have such branches, which hand on a value from outside.
    """

    def call(self, model: onnx_ir.Model) -> onnx_ir.passes.PassResult:
        outputs = set(model.graph.outputs)
        found = [
            node
            for node in model.graph
            if node.op_type == "Identity" and node.outputs[0] not in outputs
        ]
        for node in found:
            onnx_ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            model.graph.remove(node, safe=True)
        return onnx_ir.passes.PassResult(model, modified=bool(found))


def _fold_quantized_weights(file: Path) -> onnx.ModelProto:
    """Replace each QuantizeLinear of a constant in an exported file by what it computes.

    torch leaves some scales and zero points behind Constant and Identity nodes, where NNCF's pass
    does not look for them: make them initializers first. A weight that several layers call, as in
    ALBERT, is quantized once for each: all of them are made one, and it is stored once.
    """
    model = onnx_ir.from_proto(onnx.load_model(str(file)))
    onnx_ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        _MainIdentityElimination(),
        passes.RemoveUnusedNodesPass(),
    )(model)
    quantized = Counter(node.inputs[0] for node in model.graph if node.op_type == "QuantizeLinear")
    if any(value.is_initializer() and n > 1 for value, n in quantized.items() if value):
        onnx_ir.passes.Sequential(
            passes.DeduplicateInitializersPass(size_limit=MAX_BYTES),
            passes.CommonSubexpressionEliminationPass(),
            passes.RemoveUnusedNodesPass(),
        )(model)
    graph: onnx.ModelProto = onnx_ir.to_proto(model)
    del model  # and with it the tensors as they were read: of a large model, gigabytes
    compress_quantize_weights_transformation(graph)
    constants = {tensor.name for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in constants:
            raise RuntimeError(f"{node.name}: a weight is still quantized at run time")
    onnx.checker.check_model(graph)
    return graph


def describe(
    sources: Mapping[str, str], files: Mapping[str, Path], params: Mapping[str, BaseModel]
) -> dict[str, str]:
    """Metadata of an exported model: what it was made from, and nothing of where that lay.

    Args:
        sources: by kind, such as model and dataset, its name and revision.
        files: by name, the files that it was made from.
        params: by name, the sections of params.yaml that made it.

    Returns:
        The names, the SHA-256 of each file and the parameters as JSON; strings all.
    """
    return {
        **sources,
        **{f"{name}_sha256": hash_file(file) for name, file in files.items()},
        **{name: section.model_dump_json() for name, section in params.items()},
    }


def write_folder(folder: Path, graph: onnx.ModelProto, checkpoint: Path) -> None:
    """Write `model.onnx` and the config and tokenizer of a checkpoint into an existing folder."""
    onnx.save_model(graph, str(folder / "model.onnx"))
    shutil.copyfile(checkpoint / "config.json", folder / "config.json")
    copy_tokenizer(checkpoint, folder)


def relative_difference(folder: Path, model: nn.Module, windows: WindowSet) -> float:
    """How far the graph in a folder that `write_folder` wrote is from the torch model's logits.

    ONNX Runtime runs the graph as it is written, without fusing anything, so that what is compared
    is the graph and not a kernel.

    Returns:
        As `relative_rms`, of torch's logits.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )

    def forward(
        batch: dict[str, NDArray[np.int64]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        start, end = session.run(list(OUTPUTS), batch)
        return start, end

    ours = run_windows(forward, windows)
    return relative_rms(ours, run_windows(torch_forward(model), windows))


def check_same(folder: Path, difference: float, limit: float) -> None:
    """Fail when an exported graph is further from torch than its arithmetic explains.

    Raises:
        UserError: `difference` exceeds `limit`, or is not a number.
    """
    if not difference <= limit:
        raise UserError(
            f"{folder}: the ONNX model differs from the torch model by {difference:.2e} of its"
            f" logits, more than {limit:.0e}; nothing was written"
        )
