"""A degenerate batch: one training call with its update, then one inference call on the same input."""

import golden_data
from originals import graphs
from originals.scenarios_keras import last

MOMENTUM = 0.9


def v1_layer(api, record):
    tf, v1 = api.tf, api.v1
    with api.graph_session() as (_, open_session):
        layer = api.layers.BatchNormalization(momentum=MOMENTUM, **record["options"])
        x = v1.placeholder(record["dtype"], record["shape"], name="x")
        y, y_infer = layer.apply(x, training=True), layer.apply(x, training=False)
        dx = v1.gradients(tf.reduce_sum(y), x)[0]
        updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        session, feed = open_session(), {x: golden_data.edge_input(record)}
        session.run(v1.global_variables_initializer())
        result = session.run({"y": y, "dx_of_sum": dx}, feed)
        session.run(updates, feed)
        variables = layer.non_trainable_variables
        values = {graphs.short(v): value for v, value in zip(variables, session.run(variables), strict=True)}
        return finished(result, session.run(y_infer, feed), values)


def keras_layer(api, record, extra=None):
    """Eager; 16-bit inputs under a mixed policy, so that the moving variance does not overflow."""
    tf = api.tf
    policy = "mixed_float16" if record["dtype"] == "float16" else record["dtype"]
    layer = api.keras_layer(momentum=MOMENTUM, dtype=policy, **record["options"], **(extra or {}))
    x = tf.constant(golden_data.edge_input(record))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        total = tf.reduce_sum(y)
    result = {"y": y.numpy(), "dx_of_sum": tape.gradient(total, x).numpy()}
    moving = {last(v): api.np.asarray(v.numpy()) for v in layer.weights if last(v) not in ("gamma", "beta")}
    return finished(result, layer(x, training=False).numpy(), moving)


def finished(result, y_infer, values):
    return {"ok": True} | result | {"y_shape": list(result["y"].shape), "y_infer": y_infer, "vars": values}
