"""One numeric case of contrib's batch_norm: three training steps and one of inference, in scope `s`."""

from originals import graphs, inputs
from originals.scenarios_v1 import Program


def numeric(api, case):
    """Values, gradients, variables, names and collections, in the form of the golden files' `expect`."""
    tf, v1 = api.tf, api.v1
    with api.graph_session() as (graph, open_session):
        shape = case["shape"]
        x = v1.placeholder(case["dtype"], shape, name="x")
        w = v1.placeholder(case["dtype"], shape, name="w")
        arguments, fed = arguments_of(api, case)
        if case["train_kind"] == "placeholder":
            switch = v1.placeholder(tf.bool, [], name="training")
            y_train = y_infer = api.contrib.batch_norm(x, is_training=switch, scope="s", **arguments)
        else:
            switch = None
            training, inference = (graphs.training_argument(api, case, value) for value in (True, False))
            y_train = api.contrib.batch_norm(x, is_training=training, scope="s", **arguments)
            y_infer = api.contrib.batch_norm(x, is_training=inference, scope="s", reuse=True, **arguments)
        named = case["options"]["updates_collections"] or []
        updates = "my_updates" if "my_updates" in named else "update_ops"
        program = Program(api, case, x, w, y_train, y_infer, switch, fed, updates)
        losses = v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)
        result = program.describe(graph) | {
            "fused": has_fused_operation(graph),
            "n_custom_updates": len(v1.get_collection("my_updates")),
            "trainable": [v.op.name for v in v1.trainable_variables()],
            "model_variables": [v.op.name for v in v1.model_variables()],
        }
        session = open_session()
        session.run(v1.global_variables_initializer())
        result["regularization_losses"] = [session.run(loss) for loss in losses]
        return result | {"steps": [program.step(session, t) for t in range(4)]}


def has_fused_operation(graph):
    """Functions included: that is where v2 control flow puts its branches."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return any(node.op.startswith("FusedBatchNorm") for node in nodes)


def arguments_of(api, case):
    """The call's arguments, and the placeholders among them with what to feed."""
    arguments, initializers = graphs.layer_arguments(api, case)
    options, fed = case["options"], {}
    if initializers:
        arguments["param_initializers"] = initializers
    if options.get("reg") == "l2":
        arguments["param_regularizers"] = {k: graphs.l2(api, 0.05) for k in ("gamma", "beta")}
    if options.get("activation") == "relu":
        arguments["activation_fn"] = api.tf.nn.relu
    if options.get("batch_weights"):
        weights = api.v1.placeholder(case["dtype"], case["shape"][:1], name="weights")
        arguments["batch_weights"], fed = weights, {weights: inputs.batch_weights_at}
    if arguments["updates_collections"] == "update_ops":
        # The original compares by identity, and a string that came through a pipe is another object.
        arguments["updates_collections"] = api.v1.GraphKeys.UPDATE_OPS
    return arguments, fed
