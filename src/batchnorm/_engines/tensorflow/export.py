"""Graphs leave the process in standard form: a graph that is written to a file contains none of our ops.

Any graph may be written: TensorFlow 1's checkpoints include theirs, and a SavedModel every function of its module. So
our ops are used wherever they are fastest, and when a graph becomes a `GraphDef`, each of them is replaced by a call to
a function that does the same in TensorFlow's own operations. Loading such a graph does not require this package.

TensorFlow has no hook for this, so two of its functions are wrapped: the method by which every graph becomes a
`GraphDef`, and the function that makes `.meta` files, which is also given nodes that were copied one by one.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from batchnorm._engines.tensorflow.attributes import layout_of
from batchnorm._engines.tensorflow.private import op_definition, protos, wrap_meta_graph, wrap_serialization
from batchnorm._engines.tensorflow.standard import AFTER_DY, FUNCTIONS, PREFIX

__all__ = ["install", "standardize"]

Tensor = Any
Node = Any


def install() -> None:
    """Make TensorFlow write every graph in standard operations from now on."""
    wrap_serialization(_standard_serialization)
    wrap_meta_graph(_standard_meta_graph)


def standardize(graph_def: Any) -> Any:
    """The same `GraphDef`, in which our ops, if any, have been replaced by calls to standard functions."""
    functions: dict[str, Any] = {}
    _replace(graph_def.node, functions)
    library = graph_def.library.function if graph_def.HasField("library") else ()
    for function in library:
        outputs = _replace(function.node_def, functions)
        for node in function.node_def if outputs else ():
            node.input[:] = [_renamed(name, outputs) for name in node.input]
        for name in list(function.ret) if outputs else ():
            function.ret[name] = _renamed(function.ret[name], outputs)
    new = functions.keys() - {function.signature.name for function in library}
    if new:
        graph_def.library.function.extend(functions[name] for name in sorted(new))
    return graph_def


def _standard_serialization(serialize: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(serialize)
    def standard(self: Any, *args: Any, **kwargs: Any) -> tuple[Any, int]:
        graph_def, version = serialize(self, *args, **kwargs)
        return standardize(graph_def), version

    return standard


def _standard_meta_graph(create: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(create)
    def standard(meta_info_def: Any = None, graph_def: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(graph_def, protos.GraphDef):
            copied = protos.GraphDef()
            copied.CopyFrom(graph_def)
            graph_def = standardize(copied)
        return create(meta_info_def, graph_def, *args, **kwargs)

    return standard


def _replace(nodes: Iterable[Node], functions: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Replace our ops among the nodes, add the functions that they call, and return the outputs' old names."""
    outputs: dict[str, dict[str, int]] = {}
    for node in nodes:
        if not node.op.startswith(PREFIX):
            continue
        definition: Any = op_definition(node.op)
        outputs[node.name] = {arg.name: number for number, arg in enumerate(definition.output_arg)}
        taken, given = _types(definition.input_arg, node), _types(definition.output_arg, node)
        function = _function_for(_described(node), tuple(taken))
        functions[function.signature.name] = function
        own = [name for name in node.attr if not name.startswith("_")]
        for name in own:
            del node.attr[name]
        node.op = "PartitionedCall"
        node.attr["Tin"].list.type.extend(taken)
        node.attr["Tout"].list.type.extend(given)
        node.attr["f"].func.name = function.signature.name
    return outputs


def _types(arguments: Any, node: Node) -> list[int]:
    """The dtypes of an op's inputs or outputs, one by one."""
    types: list[int] = []
    for argument in arguments:
        if argument.type_list_attr:
            types += node.attr[argument.type_list_attr].list.type
        else:
            number = node.attr[argument.number_attr].i if argument.number_attr else 1
            types += [node.attr[argument.type_attr].type] * number
    return types


def _renamed(name: str, outputs: dict[str, dict[str, int]]) -> str:
    """The name of an output inside a function, `node:argument:number`, corrected if the node is now a call."""
    node, *rest = name.split(":")
    return f"{node}:output:{outputs[node][rest[0]]}" if rest and node in outputs else name


def _described(node: Node) -> bytes:
    """The op and its attributes without the node's own: the key of its function, and all that this is made from."""
    bare = protos.NodeDef(op=node.op)
    for name in sorted(node.attr):
        if not name.startswith("_"):
            bare.attr[name].CopyFrom(node.attr[name])
    return bare.SerializeToString(deterministic=True)


@functools.lru_cache(maxsize=1024)
def _function_for(described: bytes, types: tuple[int, ...]) -> Any:
    """The function that does what the op does, as a `FunctionDef` with a unique name."""
    node = protos.NodeDef.FromString(described)
    attributes = node.attr
    plan = {name: attributes[name].i for name in ("ghost_order", "ghost_size")}
    plan["bounds"] = list(attributes["bounds"].list.i)
    place = 1 if node.op in AFTER_DY else 0  # of x
    rank = plan["bounds"][-1] - bool(plan["ghost_size"])
    shapes: list[Any] = [[None] * rank if number <= place else None for number in range(len(types))]
    specs = [tf.TensorSpec(shape, tf.as_dtype(type_)) for shape, type_ in zip(shapes, types, strict=True)]
    step = FUNCTIONS[node.op]

    def standard(*arrays: Tensor) -> list[Tensor]:
        return list(step(attributes, layout_of(arrays[place], **plan), *arrays))

    with tf.Graph().as_default():
        traced: Any = tf.function(standard, autograph=False).get_concrete_function(*specs)
    function = protos.FunctionDef()
    function.CopyFrom(traced.function_def)
    function.signature.name = ""
    body = function.SerializeToString(deterministic=True)
    function.signature.name = (
        f"batchnorm_{node.op[len(PREFIX) :].lower()}_{hashlib.sha1(body).hexdigest()[:16]}"
    )
    return function
