"""Subclasses of the v1 layer: what a program overrides, how often it is called, and the results."""


def run(api, kind, shape=(8, 3), options=None, call=None, switch=None, steps=2):
    """Values, gradients, variables and the calls of hooks over a few steps.

    Args:
        kind: a name of `KINDS`.
        call: keyword arguments of the layer's call.
        switch: values to feed as `training`, one for each step; None leaves `training` to `call`.
    """
    tf, v1 = api.tf, api.v1
    log, options, call = [], dict(options or {}), dict(call or {})
    with api.graph_session() as (_, open_session):
        x = v1.placeholder(tf.float32, [None, *shape[1:]], name="x")
        if switch is not None:
            call["training"] = v1.placeholder(tf.bool, [], name="training")
        for key in ("gamma_initializer", "beta_initializer"):
            options.setdefault(key, v1.constant_initializer(0.7))
        layer = KINDS[kind](api, log)(**options)
        y = layer(x, **call)
        weights = [v for v in layer.weights if "gamma" in v.name or "beta" in v.name]
        loss = tf.reduce_sum(tf.sin(y) * tf.cos(tf.range(shape[-1], dtype=y.dtype)))
        gradients = tf.gradients(loss, [x, *weights])
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        result = {
            "scope": layer.scope_name,
            "name": layer.name,
            "fused": bool(layer.fused),
            "axis": list(layer.axis),
            "variables": [[v.op.name, v.shape.as_list(), v.dtype.base_dtype.name] for v in layer.weights],
            "trainable": [v.op.name for v in layer.trainable_weights],
            "n_updates": len(updates),
            "n_layer_updates": len(layer.updates),
            "log": [str(entry) for entry in log],
            "unconnected": [gradient is None for gradient in gradients],
        }
        session = open_session()
        session.run(v1.global_variables_initializer())
        wanted = [y, *(gradient for gradient in gradients if gradient is not None)]
        result["steps"] = []
        for step in range(steps):
            fed = {x: batch(api, shape, step)}
            if switch is not None:
                fed[call["training"]] = switch[step]
            values = session.run(wanted, fed)
            session.run(updates, fed)
            result["steps"].append([*values, *session.run(layer.weights)])
        return result


def surface(api):
    """All attributes of a built layer, and what the plain ones among them hold."""
    tf, v1 = api.tf, api.v1
    with api.graph_session():
        layer = api.layers.BatchNormalization(
            activity_regularizer=lambda y: tf.reduce_sum(y * y),
            gamma_regularizer=lambda w: 0.5 * tf.reduce_sum(w),
        )
        new = {name: getattr(layer, name) for name in ("axis", "fused", "dtype", "compute_dtype", "built")}
        x = v1.placeholder(tf.float32, [None, 3, 4])
        layer(x, training=True)
        held = {name: getattr(layer, name) for name in PLAIN}
        held |= {name: len(getattr(layer, name)) for name in COUNTED}
        spec = layer.input_spec
        return {
            "dir": sorted(dir(layer)),
            "new": new,
            "held": held,
            "spec": [spec.ndim, sorted(spec.axes.items())],
            "collected": sorted(
                loss.op.name for loss in v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)
            ),
            "first_loss": layer.losses[0].op.name,
            "losses_for": [len(layer.get_losses_for(x)), len(layer.get_losses_for(None))],
            "updates_for": [len(layer.get_updates_for(x)), len(layer.get_updates_for(None))],
            "mask": [layer.compute_mask(x, 3), layer.compute_mask(x)],
            "shape": tf.TensorShape(layer.compute_output_shape((7, 3, 4))).as_list(),
            "signature": str(layer.compute_output_signature(tf.TensorSpec([7, 3, 4], tf.float32))),
            "params": layer.count_params(),
            "config": {key: layer.get_config()[key] for key in ("name", "trainable", "dtype", "momentum")},
            "param_dtype": tf.as_dtype(layer._param_dtype).name,
        }


PLAIN = (
    *("axis", "built", "center", "compute_dtype", "dtype", "dynamic", "epsilon", "fused", "momentum", "name"),
    *("scale", "scope_name", "stateful", "supports_masking", "synchronized", "trainable", "variable_dtype"),
    *("virtual_batch_size", "renorm", "adjustment", "_bessels_correction_test_only", "_param_shape"),
    *("_base_name", "_name", "_dtype", "_compute_dtype", "_USE_V2_BEHAVIOR", "_reuse"),
)
COUNTED = (
    *("inbound_nodes", "outbound_nodes", "metrics", "losses", "updates", "weights", "variables"),
    *("trainable_weights", "non_trainable_weights", "trainable_variables", "non_trainable_variables"),
    *("_updates", "_losses", "_callable_losses", "_trainable_weights", "_non_trainable_weights"),
)


def activity_loss(api):
    """The values of an activity regularizer's losses, as the layer and the collection hold them."""
    tf, v1 = api.tf, api.v1
    with api.graph_session() as (_, open_session):
        layer = api.layers.BatchNormalization(activity_regularizer=lambda y: tf.reduce_sum(y * y))
        layer(tf.constant(batch(api, (8, 3), 0)), training=True)
        losses = [*layer.losses, *v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)]
        session = open_session()
        session.run(v1.global_variables_initializer())
        return session.run(losses)


def start(api, initializer):
    """An initializer's numbers: their mean, deviation and outer percentiles, or the error's type.

    Some initializers take a seed from the system. With 100,000 numbers the percentiles of two runs differ by
    0.013 of the deviation or so, where the test allows over 0.1; with 4000 it would be 0.065.
    """
    v1, np = api.v1, api.np
    with api.graph_session() as (_, open_session):
        v1.set_random_seed(1)
        x = v1.placeholder("float32", [None, 100_000])
        try:
            layer = api.layers.BatchNormalization(beta_initializer=initializer)
            layer(x)
        except Exception as error:
            return type(error).__name__
        session = open_session()
        session.run(v1.global_variables_initializer())
        beta = np.asarray(session.run(layer.beta), "float64")
        return [float(value) for value in (beta.mean(), beta.std(), *np.percentile(beta, [2, 98]))]


def batch(api, shape, step):
    return (2.0 * api.np.random.default_rng(step).standard_normal(shape) + 1.0).astype("float32")


def plain(api, log):
    class TpuBatchNormalization(api.layers.BatchNormalization):
        pass

    return TpuBatchNormalization


def trains_by_default(api, log):
    class BNTrains(api.layers.BatchNormalization):
        def call(self, inputs, training=True):
            log.append(training)
            return super().call(inputs, training=training)

    return BNTrains


def never_trains(api, log):
    class FrozenBN(api.layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=False)

    return FrozenBN


def scales(api, log):
    class Scaled(api.layers.BatchNormalization):
        def call(self, inputs, training=False, mask=None):
            return 2.0 * super().call(inputs, training=training) + 1.0

    return Scaled


def ignores_training(api, log):
    class Own(api.layers.BatchNormalization):
        def call(self, inputs):
            return super().call(inputs, training=True)

    return Own


def branches_on_a_tensor(api, log):
    class Branching(api.layers.BatchNormalization):
        def call(self, inputs, training=False, mask=None):
            y = super().call(inputs, training=training)
            if api.tf.reduce_sum(inputs) > 1e9:
                y = -y
            return y

    return Branching


def masks_by_itself(api, log):
    class MaskedBN(api.layers.BatchNormalization):
        def call(self, inputs, training=False):
            mask = api.tf.reduce_any(inputs > 0.0, axis=-1)
            return super().call(inputs, training=training, mask=mask)

    return MaskedBN


def builds_more(api, log):
    class WithGain(api.layers.BatchNormalization):
        def build(self, input_shape):
            self.gain = self.add_weight("gain", [], initializer=api.v1.constant_initializer(3.0))
            zeros = api.v1.zeros_initializer()
            self.seen = self.add_variable(name="seen", shape=[], trainable=False, initializer=zeros)
            super().build(input_shape)
            log.append(list(self.axis))

        def call(self, inputs, training=False, mask=None):
            y = super().call(inputs, training=training, mask=mask)
            if training is not False:
                self.add_update(api.v1.assign_add(self.seen, 1.0))
            return self.gain * y

    return WithGain


def halves_moments(api, log):
    class Moments(api.layers.BatchNormalization):
        def _moments(self, inputs, reduction_axes, keep_dims, mask=None):
            log.append(
                [
                    "_moments",
                    inputs.dtype.name,
                    inputs.shape.rank,
                    list(reduction_axes),
                    keep_dims,
                    mask is None,
                ]
            )
            mean, variance = super()._moments(inputs, reduction_axes, keep_dims=keep_dims, mask=mask)
            return 0.5 * mean, variance + 0.25 * api.tf.square(mean)

    return Moments


def own_moments(api, log):
    class OwnMoments(api.layers.BatchNormalization):
        def _moments(self, inputs, reduction_axes, keep_dims, mask=None):
            tf = api.tf
            mean = tf.reduce_mean(inputs, reduction_axes, keepdims=keep_dims)
            squares = tf.reduce_mean(tf.square(inputs), reduction_axes, keepdims=keep_dims)
            return mean, squares - tf.square(mean) + 0.1

    return OwnMoments


def calculates(api, log):
    class Calculates(api.layers.BatchNormalization):
        def _calculate_mean_and_var(self, inputs, reduction_axes, keep_dims, mask=None):
            log.append(["_calculate", list(reduction_axes), keep_dims])
            mean, variance = super()._calculate_mean_and_var(inputs, reduction_axes, keep_dims, mask=mask)
            return mean, 2.0 * variance

    return Calculates


def calculates_alone(api, log):
    class CalculatesAlone(api.layers.BatchNormalization):
        def _no_sync_calculate_mean_and_var(self, inputs, reduction_axes, keep_dims, mask=None):
            mean, variance = super()._no_sync_calculate_mean_and_var(
                inputs, reduction_axes, keep_dims, mask=mask
            )
            return mean + 0.1, variance

    return CalculatesAlone


def averages(api, log):
    class Averages(api.layers.BatchNormalization):
        def _assign_moving_average(self, variable, value, momentum, inputs_size):
            log.append(["average", variable.op.name, inputs_size is None])
            return super()._assign_moving_average(variable, 2.0 * value, 0.5 * momentum, inputs_size)

    return Averages


def assigns(api, log):
    class Assigns(api.layers.BatchNormalization):
        def _assign_moving_average(self, variable, value, momentum, inputs_size):
            return api.v1.assign(variable, variable * 0.25 + value * 0.75)

        def _assign_new_value(self, variable, value):
            log.append(["new", variable.op.name])
            return super()._assign_new_value(variable, value + 1.0)

    return Assigns


def corrects(api, log):
    class Corrects(api.layers.BatchNormalization):
        def _renorm_correction_and_moments(self, mean, variance, training, inputs_size):
            log.append(["renorm", mean.shape.as_list(), inputs_size is None])
            r, d, mean, variance = super()._renorm_correction_and_moments(
                mean, variance, training, inputs_size
            )
            return r * 0.5, d + 0.1, mean, variance

    return Corrects


def always_trains(api, log):
    class AlwaysTrains(api.layers.BatchNormalization):
        def _get_training_value(self, training=None):
            log.append(["training", training is None or bool(training)])
            return True

    return AlwaysTrains


def never_fused(api, log):
    class NeverFused(api.layers.BatchNormalization):
        def _fused_can_be_used(self):
            log.append("asked")
            return False

    return NeverFused


def refuses_fused(api, log):
    class RefusesFused(api.layers.BatchNormalization):
        def _raise_if_fused_cannot_be_used(self):
            raise ValueError("not here")

    return RefusesFused


def scales_fused(api, log):
    class ScalesFused(api.layers.BatchNormalization):
        def _fused_batch_norm(self, inputs, mask, training):
            return 3.0 * super()._fused_batch_norm(inputs, mask=mask, training=training)

    return ScalesFused


def freezes_weights(api, log):
    class FreezesWeights(api.layers.BatchNormalization):
        def add_weight(self, *args, **kwargs):
            log.append([kwargs["name"], str(kwargs["dtype"]), kwargs["trainable"]])
            kwargs["trainable"] = False
            return super().add_weight(*args, **kwargs)

    return FreezesWeights


def drops_updates(api, log):
    class DropsUpdates(api.layers.BatchNormalization):
        def add_update(self, *args, **kwargs):
            log.append("dropped")

    return DropsUpdates


def learns_size(api, log):
    class LearnsSize(api.layers.BatchNormalization):
        def _support_zero_size_input(self):
            return True

        def _assign_moving_average(self, variable, value, momentum, inputs_size):
            log.append(["size", inputs_size is None])
            return super()._assign_moving_average(variable, value, momentum, inputs_size)

    return LearnsSize


def keeps_doubles(api, log):
    class KeepsDoubles(api.layers.BatchNormalization):
        @property
        def _param_dtype(self):
            return api.tf.float64

    return KeepsDoubles


def infers_untrained(api, log):
    class InfersUntrained(api.layers.BatchNormalization):
        _USE_V2_BEHAVIOR = True

    return InfersUntrained


KINDS = {
    maker.__name__: maker
    for maker in (
        *(plain, trains_by_default, never_trains, scales, ignores_training, branches_on_a_tensor),
        *(masks_by_itself, builds_more, halves_moments, own_moments, calculates, calculates_alone),
        *(averages, assigns, corrects, always_trains, never_fused, refuses_fused, scales_fused),
        *(freezes_weights, drops_updates, learns_size, keeps_doubles, infers_untrained),
    )
}
