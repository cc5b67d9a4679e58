"""A snippet run in a fresh graph, and the variables, collections and op names that it leaves."""

from originals import graphs


def effects(api, script):
    """In the form of the goldens' `graph_effects`. A snippet sets R (outputs), perhaps EX (facts)."""
    with api.graph_session() as (graph, _):
        names = namespace(api)
        try:
            exec(script, names)
        except Exception as error:
            return {"ok": False, "type": type(error).__name__, "message": str(error)} | left(api, graph)
        extra = {k: v if isinstance(v, (str, int)) else list(v) for k, v in names.get("EX", {}).items()}
        outputs = [y.op.name for y in names["R"]]
        return {"ok": True, "outputs": outputs, "extra": extra} | left(api, graph)


def left(api, graph):
    """Names and shapes of the variables, and the collections other than that of all variables."""
    variables = [[v.op.name, v.shape.as_list()] for v in api.v1.global_variables()]
    members = graphs.collections(api, graph)
    return {
        "variables": variables,
        "collections": {k: names for k, names in members.items() if k != api.v1.GraphKeys.GLOBAL_VARIABLES},
    }


def namespace(api):
    """The identifiers that the recorded snippets use; contrib's other layers are tf_slim's on every side."""
    v1 = api.v1
    names = {
        "tf": api.tf,
        "v1": v1,
        "x2": v1.placeholder("float32", [None, 4]),
        "z2": v1.placeholder("float32", [None, 4]),
        "x3": v1.placeholder("float32", [None, 5, 4]),
        "x4": v1.placeholder("float32", [None, 3, 3, 4]),
        "tr": v1.placeholder("bool", []),
        "vscope": v1.variable_scope,
        "l2": lambda factor: graphs.l2(api, factor),
        "bn": api.layers.batch_normalization,
        "BN": api.layers.BatchNormalization,
    }
    return Lazy(names, api)


class Lazy(dict):
    """A namespace whose contrib names are imported only by the snippets that use them."""

    def __init__(self, names, api):
        super().__init__(names)
        self.api = api

    def __missing__(self, name):
        api = self.api
        makers = {
            "cbn": lambda: api.contrib.batch_norm,
            "arg_scope": lambda: api.contrib.arg_scope,
            "slim_arg_scope": lambda: api.slim.arg_scope,
            "conv2d": lambda: api.slim.layers.conv2d,
            "fc": lambda: api.slim.layers.fully_connected,
        }
        if name not in makers:
            raise KeyError(name)
        return makers[name]()
