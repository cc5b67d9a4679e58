"""track_tf1_style_variables on a Keras layer or a tf.Module whose call is a recorded body."""

import textwrap
from types import SimpleNamespace

import golden_data
from originals import graphs
from originals.scenarios_keras import full_name


def layer(api, record, flags):
    """The recorded body as a Keras layer's call, once per training flag, eager or inside a tf.function."""
    names = namespace(api)
    call = decorated(api, record["body"], names)
    wrapper = type("Wrapper", (api.keras.layers.Layer,), {"call": call})()
    return trace(api, record, flags, wrapper, lambda: wrapper.weights, lambda: wrapper.trainable_weights)


def module(api, record, flags):
    """Likewise as a tf.Module's __call__."""
    call = decorated(api, record["body"], namespace(api))
    wrapper = type("Wrapper", (api.tf.Module,), {"__call__": call})()
    return trace(api, record, flags, wrapper, lambda: wrapper.variables, lambda: wrapper.trainable_variables)


def trace(api, record, flags, wrapper, weights, trainable):
    tf = api.tf
    x = tf.constant(golden_data.tracked_input(4 if "rank 4" in record["title"] else 2))

    def run(flag):
        return wrapper(x, training=flag)

    if record["mode"] == "tf.function":
        run = tf.function(run, autograph=False)
    steps = []
    try:
        for flag in flags:
            y = run(flag).numpy()
            values = {full_name(v): api.np.asarray(v.numpy()) for v in weights()}
            steps.append({"training": flag, "y": y, "weights": values})
    except Exception as error:
        return {"ok": False, "type": type(error).__name__, "message": str(error), "steps": steps}
    losses = [api.np.asarray(loss) for loss in getattr(wrapper, "losses", [])]
    names = {"weights": [full_name(v) for v in weights()], "trainable": [full_name(v) for v in trainable()]}
    return {"ok": True, "steps": steps, "losses": losses} | names


def decorated(api, body, names):
    """The body as a method (self, x, training) under the decorator."""
    exec("def call(self, x, training=None):\n" + textwrap.indent(body, "  "), names)
    return api.tracking.track_tf1_style_variables(names["call"])


def namespace(api):
    """The identifiers that the recorded bodies use."""
    return {
        "tf": api.tf,
        "v1": api.v1,
        "K": api.keras,
        "bn": api.layers.batch_normalization,
        "slim": SimpleNamespace(layers=Contrib(api)),
        "goc": api.tracking.get_or_create_layer,
        "vscope": api.v1.variable_scope,
        "l2": lambda factor: graphs.l2(api, factor),
    }


class Contrib:
    """`slim.layers`, imported only by the bodies that use it."""

    def __init__(self, api):
        self.api = api

    @property
    def batch_norm(self):
        return self.api.contrib.batch_norm
