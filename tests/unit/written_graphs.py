"""What graphs in files hold."""

from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2

__all__ = ["is_standard", "saved_graphs", "written"]


def written(graph_def: Any) -> set[str]:
    """The types of all operations of a graph and of its functions."""
    functions = (node.op for function in graph_def.library.function for node in function.node_def)
    return {node.op for node in graph_def.node} | set(functions)


def is_standard(graph_def: Any) -> bool:
    """Whether none of them is ours."""
    return not any(op.startswith("Batchnorm") for op in written(graph_def))


def saved_graphs(folder: Path) -> list[Any]:
    """The graphs of a SavedModel."""
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return [meta_graph.graph_def for meta_graph in model.meta_graphs]
