"""What `convert` joins with a batch norm: an addition behind it, an activation behind that, or one of the two."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras

from batchnorm.activation import Activation
from batchnorm.keras._activation import fusable
from batchnorm.keras.private import mask_of

__all__ = ["Join", "joins_of"]

# The name of a layer, which of its calls, and which of that call's outputs.
Place = tuple[str, int, int]
# Where a call of our layer has its residual.
RESIDUAL = {("kwargs", "residual"), ("args", 4)}


class Join(NamedTuple):
    """What one batch norm takes over, by the layers' names; or why it takes over no more.

    Attributes:
        norm: the batch norm.
        add: the addition behind it, if it is joined.
        place: which of the two numbers that are added is the batch norm's.
        activation: the layer of the activation behind those, if it is joined.
        function: what that layer computes.
        reason: why no more is joined; empty if nothing is left to join.
    """

    norm: str
    add: str | None = None
    place: int = 0
    activation: str | None = None
    function: Activation | None = None
    reason: str = ""


def joins_of(config: Mapping[str, Any], layers: Mapping[str, Any], norms: list[str]) -> dict[str, Join]:
    """For each batch norm what it takes over.

    Args:
        config: what the model's `get_config` returns: of a functional model with the calls of each layer, of a
            sequential one without.
        layers: the model's layers by name.
        norms: the names of the batch norms that may take something over.
    """
    graph = _graph_of(config) if "input_layers" in config else _row_of(config)
    found: dict[str, Join] = {}
    taken: set[str] = set()
    # The later of two batch norms that are added takes the addition, so that the other's output is there.
    for name in reversed(norms):
        found[name] = join = _join_of(name, layers, graph, taken)
        if join.add is not None:
            taken.add(join.add)
    return {name: found[name] for name in norms}


class _Use(NamedTuple):
    """A call that takes a number as one of its arguments; no layer stands for an output of the model."""

    layer: str | None
    # Of the call: how many there are of this layer, and where the number is among the arguments.
    calls: int = 1
    path: tuple[Any, ...] = ("args", 0)


class _Graph(NamedTuple):
    """Which calls take each number, and how many outputs the model has."""

    uses: dict[Place, list[_Use]]
    outputs: int


def _join_of(name: str, layers: Mapping[str, Any], graph: _Graph, taken: set[str]) -> Join:
    norm, uses = layers[name], graph.uses
    if sum(place[0] == name for place in uses) > 1:
        return Join(name, reason="it is called several times")
    if norm.activity_regularizer is not None:
        return Join(name, reason="it has an activity_regularizer")
    if getattr(norm, "activation", None) is not None:
        return Join(name, reason="it has an activation already")
    add, place, after = None, 0, uses[name, 0, 0]
    own = {use.path[:2] for each in uses.values() for use in each if use.layer == name}
    if len(after) == 1 and type(layers.get(after[0].layer or "")) is keras.layers.Add:
        (use,) = after
        reason = _hindrance(norm, layers, use)
        reason = f"{use.layer} is joined with another" if use.layer in taken else reason
        reason = "it has a residual already" if own & RESIDUAL else reason
        if reason:
            return Join(name, reason=reason)
        add, place = use.layer, use.path[-1]
        after = uses[str(add), 0, 0]
    join = Join(name, add, place)
    if len(after) != 1:
        return join._replace(reason="what follows is used several times" if after else "nothing follows")
    if after[0].layer is None:
        return join._replace(reason="what follows is an output of the model")
    follows = layers[after[0].layer]
    function = fusable(follows)
    kind = f"{follows.name} ({type(follows).__name__})"
    if function is None:
        return join._replace(reason=f"{kind} follows")
    if after[0].path != ("args", 0) or not _goes_with(norm, follows):
        return join._replace(reason=f"{kind} has another dtype, or options of its own")
    if graph.outputs > 1 and any(use.layer is None for use in uses.get((follows.name, 0, 0), ())):
        return join._replace(reason=f"{kind} names one of several outputs")
    return join._replace(activation=follows.name, function=function)


def _hindrance(norm: Any, layers: Mapping[str, Any], use: _Use) -> str:
    """Why an addition cannot be joined; empty if it can."""
    add = layers[use.layer or ""]
    if use.calls > 1 or not _goes_with(norm, add):
        return f"{add.name} is called several times, or has another dtype or options of its own"
    summands = add.input
    if use.path[:-1] != ("args", 0) or len(summands) != 2:
        return f"{add.name} adds more than two tensors"
    if summands[0].shape != summands[1].shape:
        return f"{add.name} adds tensors of different shapes"
    if any(mask_of(each) is not None for each in summands):
        return f"{add.name} joins masks"
    return ""


def _goes_with(norm: Any, layer: Any) -> bool:
    return layer.compute_dtype == norm.compute_dtype and layer.activity_regularizer is None


def _graph_of(config: Mapping[str, Any]) -> _Graph:
    """Of a functional model."""
    found: dict[Place, list[_Use]] = {}
    for layer in config["layers"]:
        calls = layer["inbound_nodes"]
        for place in range(len(calls)):
            found.setdefault((layer["name"], place, 0), [])
        for call in calls:
            for path, place in _numbers_in(call):
                found.setdefault(place, []).append(_Use(layer["name"], len(calls), path))
    outputs = list(_outputs_in(config["output_layers"]))
    for place in outputs:
        found.setdefault(place, []).append(_Use(None))
    return _Graph(found, len(outputs))


def _row_of(config: Mapping[str, Any]) -> _Graph:
    """Of a sequential model."""
    names: list[str | None] = [layer["config"]["name"] for layer in config["layers"]]
    pairs = zip(names, [*names[1:], None], strict=True)
    return _Graph({(str(name), 0, 0): [_Use(after)] for name, after in pairs}, 1)


def _numbers_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Place]]:
    """The symbolic tensors among a call's serialized arguments, with where each is."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":  # pyright: ignore[reportUnknownMemberType]
            yield path, tuple(value["config"]["keras_history"])
            return
        for name, each in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield from _numbers_in(each, (*path, name))
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            yield from _numbers_in(each, (*path, place))


def _outputs_in(value: Any) -> Iterator[Place]:
    """The model's outputs, in whatever structure."""
    if isinstance(value, dict):
        value = list(value.values())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if len(value) == 3 and isinstance(value[0], str):  # pyright: ignore[reportUnknownArgumentType]
        yield tuple(value)  # pyright: ignore[reportUnknownArgumentType]
    else:
        for each in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _outputs_in(each)
