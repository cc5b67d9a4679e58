"""The network of the recorded TensorFlow 1.15.5 checkpoint: restore it, or train it from its start."""

import numpy as np

CLIPPING = {"rmax": 1.5, "rmin": 0.66, "dmax": 0.5}
RATE = 0.05
STEPS = 12
BATCH = (24, 8, 8, 1)


def batch(t):
    """Images and labels of training step t."""
    r = np.random.RandomState(100 + t)
    x = r.standard_normal(BATCH).astype("float32") * 2 + 1
    return x, (x.mean((1, 2, 3)) * 7).astype("int64") % 10


class Net:
    """The graph's ends: inputs, logits, loss and the op that trains one step, updates included."""

    def __init__(self, api):
        tf, v1 = api.tf, api.v1
        self.x = v1.placeholder(tf.float32, [None, 8, 8, 1])
        self.y = v1.placeholder(tf.int64, [None])
        self.training = v1.placeholder_with_default(False, [])
        with v1.variable_scope("net"):
            self.logits = self.build(api)
        self.loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self.y, logits=self.logits)
        )
        self.updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        with v1.control_dependencies(self.updates):
            self.train = v1.train.GradientDescentOptimizer(RATE).minimize(self.loss)

    def build(self, api):
        tf, v1, bn, training = api.tf, api.v1, api.layers.batch_normalization, self.training
        h = tf.nn.relu(bn(conv(v1, "c1", self.x, [3, 3, 1, 8]), training=training))
        h = conv(v1, "c2", h, [3, 3, 8, 8])
        h = bn(h, training=training, momentum=0.9, name="named", renorm=True, renorm_clipping=CLIPPING)
        h = conv(v1, "c3", tf.nn.relu(h), [3, 3, 8, 8])
        layer = api.layers.BatchNormalization(axis=-1, momentum=0.9, fused=False, name="obj")
        h = tf.reduce_mean(layer.apply(h, training=training), [1, 2])
        h = tf.matmul(h, weights(v1, "d1", [8, 16]))
        h = api.contrib.batch_norm(h, decay=0.9, scale=True, is_training=training, activation_fn=tf.nn.relu)
        return tf.matmul(h, weights(v1, "d2", [16, 10]))


def weights(v1, name, shape):
    with v1.variable_scope(name):
        return v1.get_variable("w", shape)


def conv(v1, name, x, shape):
    return v1.nn.conv2d(x, weights(v1, name, shape), [1, 1, 1, 1], "SAME")


def restore(api, checkpoint, x):
    """Logits in both modes from a restored checkpoint, and what its graph holds."""
    with api.graph_session() as (_, open_session):
        net, session = Net(api), open_session()
        api.v1.train.Saver().restore(session, checkpoint)
        variables = api.v1.global_variables()
        return {
            "logits": session.run(net.logits, {net.x: x}),
            "logits_training": session.run(net.logits, {net.x: x, net.training: True}),
            "variables": [[v.op.name, v.shape.as_list(), v.dtype.base_dtype.name] for v in variables],
            "trainable": [v.op.name for v in api.v1.trainable_variables()],
            "update_ops": len(net.updates),
            "values": dict(zip([v.op.name for v in variables], session.run(variables), strict=True)),
        }


def train(api, start):
    """Losses of twelve steps from the given values of all variables, and the values after them."""
    with api.graph_session() as (_, open_session):
        net, session = Net(api), open_session()
        variables = api.v1.global_variables()
        for v in variables:
            v.load(start[v.op.name], session)
        losses = []
        for t in range(STEPS):
            x, y = batch(t)
            feed = {net.x: x, net.y: y, net.training: True}
            losses.append(session.run([net.loss, net.train], feed)[0])
        values = dict(zip([v.op.name for v in variables], session.run(variables), strict=True))
        return {"losses": np.array(losses), "values": values}


def save(api, start, prefix):
    """Writes a checkpoint of the given values, to be restored by another side."""
    with api.graph_session() as (_, open_session):
        Net(api)
        session = open_session()
        for v in api.v1.global_variables():
            v.load(start[v.op.name], session)
        return {"path": api.v1.train.Saver().save(session, prefix)}
