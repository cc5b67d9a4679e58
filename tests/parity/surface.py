"""Attributes of the original v1 layer that ours lacks in a process without Keras 2, by the reason why.

docs/differences.md has the reasons. With Keras 2 as TensorFlow's Keras, the layer is a Keras 2 layer and has them all.
"""

ABSENT = {
    "connections in a model of Keras 2, which no other process has": """
        input output input_shape output_shape input_mask output_mask get_input_at get_output_at get_input_shape_at
        get_output_shape_at get_input_mask_at get_output_mask_at _inbound_nodes _inbound_nodes_value _outbound_nodes
        _outbound_nodes_value _get_node_attribute_at_index _set_connectivity_metadata _keras_tensor_symbolic_call
        _functional_construction_call _infer_output_signature _symbolic_call _set_mask_keras_history_checked
        _preserve_input_structure_in_config
    """,
    "metrics, which Keras 2's models gather": """
        add_metric _metrics _metrics_lock _get_existing_metric _symbolic_add_metric
    """,
    "files of Keras 2 and its form of SavedModel": """
        build_from_config get_build_config finalize_state load_own_variables save_own_variables __setstate__
        _auto_get_config _auto_config _must_restore_from_config _trackable_saved_model_saver _tracking_metadata
        _get_save_spec _set_save_spec _saved_model_arg_spec _saved_model_inputs_spec _get_cell_name
        _use_input_spec_as_call_signature _captured_weight_regularizer _build_input_shape
    """,
    "layers inside the layer, which Keras 2 counts along (the original does not track what a v1 layer holds)": """
        _add_trackable _auto_track_sub_layers _flatten_layers _flatten_modules _gather_children_attribute
        _get_trainable_state _set_trainable_state _obj_reference_counts _self_tracked_trackables _dedup_weights
        _maybe_create_attribute _track_variable _track_variables _update_trackables _clear_losses
    """,
    "what Keras 2 looks up in the signature of `call`, and how it prepares a call": """
        _call_spec _call_has_scope_arg _call_context_args _called _expects_mask_arg _expects_training_arg
        _expects_context_arg _init_call_fn_args _register_call_context_args _get_propagated_call_context_arguments
        _autographed_call _should_use_autograph _thread_local _assert_built_as_v1 _originally_built_as_v1
        _collect_input_masks _get_input_masks _set_mask_metadata _should_compute_mask _get_unnested_name_scope
        _name_scope_on_declaration _make_unique_name
    """,
    "casts by policy, which a v1 layer switches off": """
        _autocast _cast_single_input _should_cast_single_input _maybe_cast_inputs _compute_dtype_object
    """,
    "statistics over the replicas of Keras 2's layer and of DTensor, which a v1 layer never takes": """
        _sync_calculate_mean_and_var _dtensor_calculate_mean_and_var _dtensor_no_sync_calculate_mean_and_var
        _dtensor_sync_calculate_mean_and_var
    """,
    "marks by which Keras 2 knows and counts its classes": """
        _is_layer _is_legacy_layer _keras_style _keras_api_names _keras_api_names_v1 _instrument_layer_creation
        _instrumented_keras_api _instrumented_keras_layer_class _instrumented_keras_model_class
        _disable_keras_instrumentation
    """,
    "stored under the public name": """
        _activity_regularizer _dynamic _input_spec _stateful _supports_masking _trainable
    """,
}
