"""Snippets beyond the recorded ones, run on a live original and on ours; names as in scenarios_graph."""

TEXT = """
## name with a slash
R = [bn(x2, name="a/b", training=True)]

## a scope object as name
with vscope("s") as s:
    pass
R = [bn(x2, name=s, training=True)]

## nested scopes
with vscope("a"):
    with vscope("b"):
        y = bn(x2)
    z = bn(y, training=True)
R = [y, z]

## default-named scope
with vscope(None, "d"):
    y = bn(x2)
with vscope(None, "d"):
    z = bn(y)
R = [y, z]

## scope re-entered by object
with vscope("a") as s:
    y = bn(x2)
with vscope(s, reuse=True):
    z = bn(x2)
R = [y, z]

## original name scope
with vscope("a", auxiliary_name_scope=False):
    R = [bn(x2, training=True)]

## reuse AUTO_REUSE in the scope
R = []
for i in range(2):
    with vscope("a", reuse=v1.AUTO_REUSE):
        R += [bn(x2, name="n")]

## reuse=False inside a reusing scope
with vscope("a"):
    y = bn(x2, name="n")
with vscope("a", reuse=True):
    R = [y, bn(x2, name="n", reuse=False)]

## name scope inside a variable scope
with vscope("a"):
    with v1.name_scope("n"):
        R = [bn(x2, training=True)]

## rank 3
R = [bn(x3, training=True), bn(x3, axis=1, training=True), bn(x3, axis=[1, 2], training=True)]

## rank 4 with axis 1
R = [bn(x4, axis=1, training=True)]

## unfused rank 4
R = [bn(x4, fused=False, training=True), bn(x4, fused=False, training=False)]

## fused=True where it cannot
R = [bn(x2, fused=True, training=True)]

## training as an int
R = [bn(x2, training=1), bn(x2, training=0)]

## training as a constant
R = [bn(x2, training=tf.constant(True)), bn(x4, training=tf.constant(False))]

## training as a variable
t = v1.get_variable("t", initializer=True, trainable=False)
R = [bn(x2, training=t)]

## ghosts and renorm
R = [bn(x4, virtual_batch_size=2, renorm=True, training=True)]

## several axes with ghosts
R = [bn(x4, axis=[1, 3], virtual_batch_size=2, training=True)]

## adjustment
R = [bn(x2, training=True, adjustment=lambda s: (tf.ones([1, 4]), tf.zeros([1, 4])))]

## no center, no scale, renorm
R = [bn(x2, center=False, scale=False, renorm=True, training=True)]

## constraints
L = BN(gamma_constraint=tf.abs, beta_constraint=tf.abs)
y = L.apply(x2)
R = [y]
EX = dict(c=[v.constraint is None for v in L.variables])

## custom getter that renames
def g(getter, name, *a, **k):
    return getter(name + "_x", *a, **k)
with vscope("s", custom_getter=g):
    R = [bn(x2, training=True)]

## facts of a layer
L = BN(name="n")
y = L.apply(x4, training=True)
R = [y]
EX = dict(
    name=L.name,
    scope=L.scope_name,
    dtype=str(tf.as_dtype(L.dtype).name),
    count=L.count_params(),
    built=int(L.built),
    trainable=int(L.trainable),
    shape=tf.TensorShape(L.compute_output_shape([2, 3, 3, 4])).as_list(),
    fused=int(bool(L.fused)),
    v=[v.op.name for v in L.variables],
    w=[v.op.name for v in L.weights],
    t=[v.op.name for v in L.trainable_variables],
    tw=[v.op.name for v in L.trainable_weights],
    n=[v.op.name for v in L.non_trainable_variables],
    nw=[v.op.name for v in L.non_trainable_weights],
    m=sorted(v.op.name for v in L.submodules),
    u=[u.name for u in L.updates],
)

## an attribute before the first call
L = BN(name="n")
R = [x2]
L.scope_name

## two inputs of other ranks
L = BN()
R = [L.apply(x2), L.apply(x4)]

## another number of channels
L = BN()
R = [L.apply(x2), L.apply(tf.zeros([2, 5]))]

## build first
L = BN(name="n")
L.build([None, 4])
EX = dict(v=[v.op.name for v in L.variables])
R = [L.apply(x2)]

## trainable switched off after the build
L = BN()
y = L.apply(x2, training=True)
L.trainable = False
z = L.apply(x2, training=True)
R = [y, z]
EX = dict(u=len(L.updates), t=len(L.trainable_weights))

## float16 input
R = [bn(tf.cast(x2, tf.float16), training=True), bn(tf.cast(x4, tf.float16), training=True)]

## losses of a layer
L = BN(gamma_regularizer=l2(1.0))
y = L.apply(x2)
a = L.losses
b = L.losses
R = [y]
EX = dict(first=len(a), second=len(b))

## inside a while loop
R = [
    tf.while_loop(
        lambda i, a: i < 2,
        lambda i, a: (i + 1, bn(a, name="l", reuse=v1.AUTO_REUSE)),
        [tf.constant(0), tf.ones([3, 4])],
        parallel_iterations=1,
    )[1]
]

## contrib: NCHW
R = [cbn(x4, data_format="NCHW"), cbn(x3, data_format="NCHW")]

## contrib: rank 2 NCHW
R = [cbn(x2, data_format="NCHW")]

## contrib: weights
R = [cbn(x2, batch_weights=v1.placeholder(tf.float32, [None]))]

## contrib: custom collections unfused
R = [cbn(x3, fused=False, updates_collections=["a", "b"], is_training=tr)]

## contrib: zero debias, placeholder
R = [cbn(x2, zero_debias_moving_mean=True, is_training=tr)]

## contrib: inference
R = [cbn(x2, is_training=False), cbn(x4, is_training=False), cbn(x3, is_training=False)]

## contrib: in place, placeholder
R = [cbn(x4, updates_collections=None, is_training=tr)]

## contrib: empty collections
R = [cbn(x2, updates_collections=[]), cbn(x3, updates_collections=[])]

## contrib: scope object
with vscope("q") as q:
    pass
R = [cbn(x2, scope=q)]

## contrib: variables_collections on the core
R = [cbn(x3, scale=True, variables_collections=["vc"])]

## contrib: variables_collections in place
R = [cbn(x3, updates_collections=None, variables_collections=["vc"])]

## contrib: outputs in two collections
R = [cbn(x3, outputs_collections=["a", "b"])]

## contrib: scope regularizer
with vscope("s", regularizer=l2(0.1)):
    R = [cbn(x2, scale=True), cbn(x3, scale=True)]

## contrib: regularizers and scope's
with vscope("s", regularizer=l2(0.1)):
    R = [
        cbn(x2, scale=True, param_regularizers={"gamma": l2(1.0)}),
        cbn(x3, scale=True, param_regularizers={"gamma": l2(1.0)}),
    ]

## contrib: initializers
R = [cbn(x2, scale=True, param_initializers={"gamma": v1.zeros_initializer()})]

## contrib: reuse with other path
R = [cbn(x2, scope="a"), cbn(x2, scope="a", reuse=True, fused=False)]

## arg_scope
with arg_scope([cbn], decay=0.5, scale=True, updates_collections=None):
    R = [cbn(x2), cbn(x3, scale=False)]

## arg_scope nested
with arg_scope([cbn], scale=True):
    with arg_scope([cbn], center=False):
        R = [cbn(x2)]

## arg_scope reapplied
with arg_scope([cbn], scale=True) as s:
    pass
with arg_scope(s):
    R = [cbn(x2)]

## arg_scope on something else
def f(x):
    return x
with arg_scope([f], scale=True):
    R = [cbn(x2)]

## tf_slim's arg_scope
with slim_arg_scope([cbn], scale=True, trainable=False):
    R = [cbn(x2)]

## tf_slim's arg_scope over a convolution
with slim_arg_scope([conv2d], normalizer_fn=cbn, normalizer_params=dict(scale=True, decay=0.9)):
    R = [conv2d(x4, 5, 3), conv2d(x4, 2, 3, activation_fn=None)]

"""


def parsed(text):
    """Each snippet by its title."""
    blocks = (block.split("\n", 1) for block in text.split("## ")[1:])
    return {title.strip(): code.strip() for title, code in blocks}


SNIPPETS = parsed(TEXT)
