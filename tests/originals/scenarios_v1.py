"""One numeric case of tf.compat.v1.layers.BatchNormalization: three training steps and one of inference."""

from originals import graphs, inputs


def numeric(api, case):
    """Values, gradients, variables, names and collections, in the form of the golden files' `expect`."""
    tf, v1 = api.tf, api.v1
    with api.graph_session() as (graph, open_session):
        layer = build(api, case)
        shape, options = case["shape"], case["options"]
        x = v1.placeholder(case["dtype"], shape, name="x")
        w = v1.placeholder(case["dtype"], shape, name="w")
        extra = {"mask": v1.placeholder(tf.bool, shape[:-1], name="mask")} if options.get("mask") else {}
        if case["train_kind"] == "placeholder":
            switch = v1.placeholder(tf.bool, [], name="training")
            y_train = y_infer = layer.apply(x, training=switch, **extra)
        else:
            switch = None
            y_train = layer.apply(x, training=graphs.training_argument(api, case, True), **extra)
            y_infer = layer.apply(x, training=graphs.training_argument(api, case, False), **extra)
        fed = {extra["mask"]: inputs.mask_at} if extra else {}
        program = Program(api, case, x, w, y_train, y_infer, switch, fed)
        result = program.describe(graph) | {
            "fused": bool(layer.fused),
            "n_layer_updates": len(layer.updates),
            "trainable": [v.op.name for v in layer.trainable_variables],
            "regularization_losses": list(layer.losses),
        }
        session = open_session()
        session.run(v1.global_variables_initializer())
        result["regularization_losses"] = [session.run(loss) for loss in result["regularization_losses"]]
        return result | {"steps": [program.step(session, t) for t in range(4)]}


def build(api, case):
    arguments, initializers = graphs.layer_arguments(api, case)
    if case["options"].get("reg") == "l2":
        arguments |= {"gamma_regularizer": graphs.l2(api, 0.05), "beta_regularizer": graphs.l2(api, 0.05)}
    arguments |= {f"{k}_initializer": v for k, v in initializers.items()}
    return api.layers.BatchNormalization(axis=case["axis"], dtype=case["dtype"], **arguments)


class Program:
    """The loss, its gradients and the update ops of one built case, run step by step."""

    def __init__(self, api, case, x, w, y_train, y_infer, switch, fed, update_collection="update_ops"):
        """`fed` maps further placeholders to the function (case, step) that gives their value."""
        self.api, self.case, self.x, self.w, self.switch, self.fed = api, case, x, w, switch, fed
        self.variables = api.v1.global_variables()
        self.y = {True: y_train, False: y_infer}
        named = {graphs.short(v): v for v in self.variables}
        self.sources = {"dx": x} | {f"d{k}": named[k] for k in ("gamma", "beta") if k in named}
        self.gradients = {}
        for training, y in {True: y_train, False: y_infer}.items():
            loss = api.tf.reduce_sum(w * y)
            grads = api.v1.gradients(loss, list(self.sources.values()))
            self.gradients[training] = dict(zip(self.sources, grads, strict=True))
        self.updates = api.v1.get_collection(update_collection)

    def describe(self, graph):
        y = self.y[True]
        return {
            "y_op": y.op.name,
            "y_dtype": y.dtype.base_dtype.name,
            "variables": graphs.describe_variables(self.api),
            "n_update_ops": len(self.api.v1.get_collection("update_ops")),
            "collections": graphs.collections(self.api, graph),
        }

    def feed(self, step):
        case = inputs.as_case(self.case)
        feed = {self.x: inputs.input_at(case, step), self.w: inputs.loss_weights_at(case, step)}
        if self.switch is not None:
            feed[self.switch] = inputs.STEPS[step]
        return feed | {placeholder: at(case, step) for placeholder, at in self.fed.items()}

    def step(self, session, step):
        training, feed = inputs.STEPS[step], self.feed(step)
        fetches = {k: g for k, g in self.gradients[training].items() if g is not None}
        result = {"training": training} | session.run(fetches | {"y": self.y[training]}, feed)
        if training:
            session.run(self.updates, feed)
            result["vars"] = graphs.state(self.variables, session.run(self.variables))
        return result
