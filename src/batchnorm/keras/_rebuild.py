"""The copy of one model for `convert`: with our layer and what it takes over, or with Keras' own and the rest."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from batchnorm._faces.axes import axes_of
from batchnorm.errors import format_error
from batchnorm.keras._activation import fusable, layer_of, read
from batchnorm.keras._copies import carry, configuration, copied
from batchnorm.keras._joins import Join, joins_of
from batchnorm.keras.layers import BatchNormalization
from batchnorm.keras.private import inner_layers, is_functional

__all__ = ["Apart", "Report", "Together"]

Stock = keras.layers.BatchNormalization
# The parameters of our layer's `call`, in order.
ARGUMENTS = ("inputs", "training", "mask", "sample_weight", "residual", "inputs_mask")
# What only our layer has in its configuration, but computes the same numbers without.
SAME_NUMBERS = ("activation", "fused")


@dataclass
class Report:
    """What became of the batch norms, and the layers that were left, with the reason."""

    joins: list[Join] = field(default_factory=list)
    parted: list[str] = field(default_factory=list)
    left: list[tuple[Any, str]] = field(default_factory=list)


class Copy(ABC):
    """The copy of one model, whose layers and calls subclasses exchange."""

    # The classes of the layers that go; subclasses of theirs stay.
    kinds: tuple[type, ...] = ()

    def __init__(self, model: Any, inner: Callable[[Any], Any], report: Report) -> None:
        self.model, self.inner, self.report = model, inner, report
        self.config = configuration(model)
        self.layers: dict[str, Any] = {
            layer.name: layer for layer in getattr(model, "operations", model.layers)
        }
        self.pairs: list[tuple[Any, Any]] = []
        for layer in self.layers.values():
            report.left += _left(layer, self.kinds)

    @abstractmethod
    def exchange(self, layer: Any) -> Any:
        """What takes the place of a batch norm that is ours or Keras' own."""

    @abstractmethod
    def call(self, layer: Any, *arguments: Any, **named: Any) -> Any:
        """What takes the place of a call in a functional model."""

    @abstractmethod
    def row(self, layer: Any) -> list[Any]:
        """The layers that take the place of one in a sequential model."""

    def make(self) -> Any:
        model = self.model
        new = (
            keras.models.clone_model(model, self._inputs(), self.layer, self.call)
            if is_functional(model)
            else self._sequential()
        )
        for old, made in self.pairs:
            if old.variables:
                carry(old, made)
        if not model.trainable:
            new.trainable = False
            for old, made in self.pairs:
                made.trainable = old.trainable
        return new

    def layer(self, layer: Any) -> Any:
        """The copy of a layer, or of an operation, and what takes the place of a batch norm."""
        if is_functional(layer) or isinstance(layer, keras.Sequential):
            return self.inner(layer)
        made = self.exchange(layer) if type(layer) in self.kinds else copied(layer)
        if isinstance(layer, keras.layers.Layer):
            self.pairs.append((layer, made))
        return made

    def _inputs(self) -> Any:
        """New inputs by the names of the old ones, which Keras' own copy would name anew."""
        layers = [layer for layer in self.model.layers if isinstance(layer, keras.layers.InputLayer)]
        new = {id(layer.output): copied(layer).output for layer in layers}
        return keras.tree.map_structure(lambda tensor: new[id(tensor)], self.model.input)

    def _sequential(self) -> Any:
        model, config = self.model, self.config
        first = config["layers"][0] if config["layers"] else {}
        inputs = first.get("class_name") == "InputLayer"
        start = [keras.layers.InputLayer.from_config(first["config"])] if inputs else []
        rows = [each for layer in model.layers for each in self.row(layer)]
        new = keras.Sequential([*start, *rows], name=model.name)
        if model.built and not inputs:
            new.build(config["build_input_shape"])
        if model.compiled:
            new.compile_from_config(model.get_compile_config())
        return new


class Together(Copy):
    """Ours for Keras' own, with what follows."""

    kinds = (Stock, BatchNormalization)

    def __init__(self, model: Any, inner: Callable[[Any], Any], report: Report, fuse: bool) -> None:
        super().__init__(model, inner, report)
        norms = [name for name, layer in self.layers.items() if type(layer) in self.kinds]
        self.joins = (
            joins_of(self.config, self.layers, norms) if fuse else {name: Join(name) for name in norms}
        )
        report.joins += self.joins.values()
        self.of_add: dict[Any, Join] = {join.add: join for join in self.joins.values() if join.add}
        self.absorbed: set[Any] = {join.activation for join in self.joins.values()} - {None}
        # Calls of batch norms that wait for what is added, and results on which the activation has been.
        self.waiting: dict[str, tuple[Any, Any, Any]] = {}
        self.done: dict[int, Any] = {}

    def exchange(self, layer: Any) -> Any:
        function = self.joins[layer.name].function
        given: dict[str, Any] = {}
        if type(layer) is BatchNormalization:
            # Functions are taken as they are: a configuration may not bring them back.
            is_layer = isinstance(layer.activation, keras.layers.Layer)
            given = {"activation": copied(layer.activation) if is_layer else layer.activation}
            given["adjustment"] = layer.adjustment
        if function is not None:
            given["activation"] = function
        return BatchNormalization.from_config(configuration(layer) | given)

    def call(self, layer: Any, *arguments: Any, **named: Any) -> Any:
        join = self.of_add.get(layer.name)
        if join is not None:
            norm, given, options = self.waiting.pop(join.norm)
            y = norm(*given, **options, residual=arguments[0][1 - join.place])
        elif arguments and layer.name in self.absorbed and id(arguments[0]) in self.done:
            return self.done.pop(id(arguments[0]))
        else:
            join = self.joins.get(layer.name)
            if join is not None and join.add is not None:
                self.waiting[layer.name] = layer, arguments, named
                return arguments[0]  # which only the addition sees
            y = layer(*arguments, **named)
        if join is not None and join.activation is not None:
            self.done[id(y)] = y
        return y

    def row(self, layer: Any) -> list[Any]:
        return [] if layer.name in self.absorbed else [self.layer(layer)]


class Apart(Copy):
    """Keras' own for ours, each with the layers that do the rest."""

    kinds = (BatchNormalization,)

    def __init__(self, model: Any, inner: Callable[[Any], Any], report: Report, force: bool) -> None:
        super().__init__(model, inner, report)
        self.force = force
        self.names = set(self.layers)
        self.after: dict[str, Any] = {}

    def exchange(self, layer: Any) -> Any:
        config = configuration(layer)
        stock = Stock().get_config()
        lost = {
            name: value for name, value in config.items() if name not in stock and name not in SAME_NUMBERS
        }
        if layer.adjustment is not None:
            lost["adjustment"] = layer.adjustment
        axes = axes_of(layer.axis)
        if len(axes) > 1:
            self._refuse(layer, {"axis": axes}, "Keras' own layer has one axis", "Leave this model as it is")
        if lost and not self.force:
            why = "Keras' own layer would train differently from this one"
            self._refuse(layer, lost, why, "Pass force=True to drop these options")
        made = Stock.from_config({name: config[name] for name in stock} | {"axis": min(axes)})
        activation = layer.activation
        if activation is not None and read(activation) is not keras.activations.linear:
            record = fusable(activation)
            kind = record.name if record else getattr(activation, "__name__", "activation")
            after = layer_of(activation, self._name(f"{layer.name}_{kind}"), layer.dtype_policy)
            self.after[layer.name] = after
            if isinstance(activation, keras.layers.Layer):
                self.pairs.append((activation, after))
        self.report.parted.append(layer.name)
        return made

    def call(self, layer: Any, *arguments: Any, **named: Any) -> Any:
        if not isinstance(self.layers.get(layer.name), BatchNormalization) or type(layer) is not Stock:
            return layer(*arguments, **named)
        given = dict(zip(ARGUMENTS, arguments, strict=False)) | named
        residual, weight = given.pop("residual", None), given.pop("sample_weight", None)
        if weight is not None and not self.force:
            why = "Keras' own layer takes no weights"
            self._refuse(layer, {"a sample_weight in its call": True}, why, "Pass force=True to drop them")
        mask = given.pop("inputs_mask", None)
        if given.get("mask") is None and mask is not None:
            given["mask"] = mask
        y = layer(given.pop("inputs"), **given)
        if residual is not None:
            add = keras.layers.Add(name=self._name(f"{layer.name}_add"), dtype=layer.dtype_policy)
            y = add([y, residual])
        after = self.after.get(layer.name)
        return y if after is None else after(y)

    def row(self, layer: Any) -> list[Any]:
        made = self.layer(layer)
        after = self.after.get(layer.name)
        return [made] if after is None else [made, after]

    def _name(self, wanted: str) -> str:
        """A name that no layer of the model has."""
        name, count = wanted, 0
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def _refuse(self, layer: Any, lost: dict[str, Any], why: str, remedy: str) -> None:
        options = ", ".join(f"{name}={value!r}" for name, value in sorted(lost.items()))
        asked = f"convert(back=True) was asked for, and the layer {layer.name!r} has {options}"
        raise ValueError(format_error(asked, why, remedy))


def _left(layer: Any, kinds: tuple[type, ...]) -> list[tuple[Any, str]]:
    """The batch norms among a layer and those inside it that are copied as they are, with the reason."""
    if type(layer) in kinds or is_functional(layer) or isinstance(layer, keras.Sequential):
        return []
    found: list[tuple[Any, str]] = []
    if isinstance(layer, kinds):
        found.append((layer, "the class is a subclass, and what it changes would be lost"))
    elif _looks_like_one(layer) and Stock in kinds:
        found.append((layer, "the class is no subclass of Keras' own layer and normalizes by itself"))
    if isinstance(layer, keras.layers.Layer):
        inside = f"it is inside the layer {layer.name!r} of class {type(layer).__name__}"
        found += [(each, inside) for each in inner_layers(layer) if isinstance(each, kinds)]
    return found


def _looks_like_one(layer: Any) -> bool:
    named = "batchnorm" in type(layer).__name__.lower().replace("_", "")
    return named and type(layer) is not Stock and not isinstance(layer, BatchNormalization)
