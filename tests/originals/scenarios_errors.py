"""One combination of arguments and input: success with a few facts, or stage and type of the error."""

from originals.scenarios_keras import last

UNKNOWN = 4  # what stands for an unknown dimension where the layer is called eagerly


class Stage:
    """Runs the stages of a case and remembers in which one an exception came."""

    def __init__(self):
        self.failed = None

    def run(self, stage, action):
        try:
            return action()
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            self.failed = {
                "ok": False,
                "stage": stage,
                "type": kinds[0],
                "kinds": kinds,
                "message": str(error),
            }
            return None


def v1_layer(api, record):
    with api.graph_session():
        stage, x = Stage(), placeholder(api, record)
        layer = stage.run("ctor", lambda: api.layers.BatchNormalization(**keywords(api, record)))
        if stage.failed:
            return stage.failed
        y = stage.run("call", lambda: layer.apply(x, training=given(api, record["training"])))
        if stage.failed:
            return stage.failed
        names = [v.op.name.rsplit("/", 1)[-1] for v in layer.variables]
        return {"ok": True, "fused": bool(layer.fused), "y_dtype": y.dtype.base_dtype.name, "vars": names}


def contrib(api, record):
    with api.graph_session():
        v1, stage, x = api.v1, Stage(), placeholder(api, record)
        y = stage.run("call", lambda: api.contrib.batch_norm(x, **keywords(api, record)))
        if stage.failed:
            return stage.failed
        return {
            "ok": True,
            "y_op": y.op.name,
            "y_dtype": y.dtype.base_dtype.name,
            "n_update_ops": len(v1.get_collection(v1.GraphKeys.UPDATE_OPS)),
            "vars": [v.op.name for v in v1.global_variables()],
        }


def keras_layer(api, record):
    """Eager, with a layer of the input's dtype."""
    stage = Stage()
    arguments = keywords(api, record)
    layer = stage.run("ctor", lambda: api.keras_layer(dtype=record["dtype"], **arguments))
    if stage.failed:
        return stage.failed
    shape = [UNKNOWN if n is None else n for n in record["shape"]]
    x = api.tf.ones(shape, record["dtype"])
    y = stage.run("call", lambda: layer(x, training=given(api, record["training"])))
    if stage.failed:
        return stage.failed
    facts = {"ok": True, "fused": bool(getattr(layer, "fused", False)), "y_dtype": y.dtype.name}
    return facts | {"vars": [last(v) for v in layer.weights]}


def placeholder(api, record):
    return api.v1.placeholder(record["dtype"], record["shape"], name="x")


def keywords(api, record):
    return {k: given(api, v) for k, v in record["kwargs"].items()}


def given(api, value):
    """A recorded argument as the object it stands for."""
    tf = api.tf
    stands_for = {
        "@unit": lambda: lambda shape: (tf.ones([1]), tf.zeros([1])),
        "@list": lambda: [True],
        "@4": lambda: tf.ones([4]),
        "@8": lambda: tf.ones([8]),
        "@8x1": lambda: tf.ones([8, 1]),
    }
    return stands_for[value]() if isinstance(value, str) and value in stands_for else value
