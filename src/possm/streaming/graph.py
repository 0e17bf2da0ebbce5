"""Writing an ONNX graph node by node, with weights in float32 or in 8 bits.

What a step costs on a CPU is the number of nodes, about a microsecond each, and the weights it has to read.
So matrices go where the runtime has its fastest form, and everything constant is folded before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET, MICROSOFT_OPSET = 20, 1
IR_VERSION = 10
"""Of ONNX 1.16: what runtimes of the last years read."""
QUANTISED_BLOCK = 32
"""Weights that share one scale."""
QUANTISED_FROM = 32768
"""Matrices of fewer elements stay float32: they cost less to read than to unpack."""
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class Graph:
    """An ONNX graph that grows; values are known by their names.

    Args:
        precision: "float32", or "int8" for the large matrices, one scale per block of a row, with
            activations quantised as they come.
    """

    def __init__(self, *, precision: str = "float32") -> None:
        self.precision = precision
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare an input; a name in `shape` is a size that varies."""
        self._inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def output(self, value: str, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Hand a value out under a name."""
        for node in self._nodes:  # rename it where it is made, which costs no node
            node.output[:] = [name if made == value else made for made in node.output]
            node.input[:] = [name if used == value else used for used in node.input]
        self._outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))

    def constant(self, array: Any) -> str:
        """A constant: float32 of any float array, whole numbers as int64."""
        array = np.ascontiguousarray(array)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        name = f"c{len(self._constants)}"
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node of one output; returns its name."""
        return self.nodes(op, *inputs, outputs=1, domain=domain, **attributes)[0]

    def nodes(
        self, op: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node of several outputs; returns their names."""
        made = tuple(f"v{len(self._nodes)}_{i}" for i in range(outputs))
        self._nodes.append(helper.make_node(op, list(inputs), list(made), domain=domain, **attributes))
        return made

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """x (rows, in) -> x weight^T + bias, weight (out, in)."""
        if self.precision == "int8" and weight.size >= QUANTISED_FROM and weight.shape[1] % 32 == 0:
            return self._quantised(x, weight, bias)
        given = [x, self.constant(weight.T)]
        if bias is None:
            return self.node("MatMul", *given)
        return self.node("Gemm", *given, self.constant(bias))

    def norm(self, x: str, norm: Any) -> str:
        """A torch LayerNorm over the last axis."""
        scale, bias = self.constant(norm.weight.detach().numpy()), self.constant(norm.bias.detach().numpy())
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def split(self, x: str, sizes: Sequence[int], *, axis: int) -> tuple[str, ...]:
        """Cut along an axis."""
        return self.nodes("Split", x, self.constant(np.array(sizes)), outputs=len(sizes), axis=axis)

    def reshape(self, x: str, *shape: int) -> str:
        """Another shape, -1 where it follows."""
        return self.node("Reshape", x, self.constant(np.array(shape)))

    def model(self) -> ModelProto:
        """The graph, checked to be one."""
        made = helper.make_graph(
            self._nodes, "possm_step", self._inputs, self._outputs, list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", MICROSOFT_OPSET)]
        return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="possm")

    def _quantised(self, x: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """The runtime's product with 8-bit weights: symmetric, 128 stands for 0."""
        rows, columns = weight.shape
        blocks = weight.astype(np.float32).reshape(rows, -1, QUANTISED_BLOCK)
        scale = np.maximum(np.abs(blocks).max(axis=2), 1e-12) / 127
        packed = (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8)
        inputs = [x, self.constant(packed), self.constant(scale)]
        if bias is not None:
            inputs += ["", "", self.constant(bias)]
        return self.node(
            "MatMulNBits",
            *inputs,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=8,
            block_size=QUANTISED_BLOCK,
            accuracy_level=4,
        )
