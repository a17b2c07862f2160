"""Which tests show that a parameter works: test ids, as pytest takes them.

OF_KEY has the proof of a key of spec, which counts for every document's parameter that becomes this key. OF_ROW has
that of one parameter, where the key's is not enough or there is no key; it replaces the other. What another system's
parameter is converted to has its tests besides.
"""

from finetune_api.parameters.row import Parameter

_Tests = tuple[str, ...]


def _of(file: str, *names: str) -> _Tests:
    return tuple(f"tests/{file}.py::{name}" for name in names)


def _support(key: str) -> _Tests:
    """A key that may have a few values only: `finetune validate`, the operator and admission refuse any other."""
    tests = ("test_allowed_values_pass_and_others_do_not", "test_admission_says_the_same")
    return _of("unit/api/test_support", *(f"{test}[{key}]" for test in tests))


_MODEL_ARGS = "training/test_model_args"
_TRAINING = "training/test_training"
_OPTIMIZER = "training/test_optimizer"
_MORE_OPTIMIZERS = "training/test_more_optimizers"
_TEMPLATES = "training/data/test_templates"
_PADDING = "training/data/test_padding"
_TRACKING = "training/test_tracking"
_MIXING = "unit/data/test_mixing"
_RESOLVE = "unit/api/test_resolve"
_BATCH = "unit/api/test_batch"
_DATASET = "training/data/test_dataset"
_EXAMPLES = "training/test_examples"
_CLM_TEXTS = "training/clm/test_clm_texts"
_CLM_MODEL = "training/clm/test_clm_model"
_CLM_TRAINING = "training/clm/test_clm_training"
_BY_HAND = _of(_TRAINING, "test_steps_agree_with_a_loop_written_by_hand")
_EXAMPLE = "test_it_trains_and_its_result_loads"
_SIZES = _of(_CLM_MODEL, "test_sizes_by_the_architectures_own_names", "test_from_scratch_trains_saves_and_resumes")
_SCRIPT = _of(_CLM_TRAINING, "test_document_004_as_a_plain_loop", "test_with_transformers_own_trainer")
_LORA = _of(_MODEL_ARGS, "test_every_lora_argument_is_pefts")

_JOB_DATA = "training/data/test_job_data"
_TOKENS = "training/data/test_template_tokens"
_PACKING = "training/data/test_packing"
_PREFERENCE = "training/data/test_preference_rows"
_DPO_TRL = "training/dpo/test_dpo_against_trl"
_QUANT = "training/test_quantization"
_PEFT_TYPES = "training/test_peft_types"
_AUTO = "training/test_auto"
_STEPS = "unit/data/test_steps"
_PRECISION = "training/test_precision"
_CONVERT = "unit/cli/test_convert"
_HUB = "training/data/test_download_hub"
_ARGUMENTS = "training/test_training_args"
_EVALUATION = "training/test_evaluation_conf"
_SAMPLES = "training/test_samples"
_DPO = "training/dpo/test_dpo_training"
_FILES = "unit/data/test_files"
_TEMPLATE = (
    *_of(_TOKENS, "test_every_token_and_every_label", "test_inference_begins_with_the_same_tokens"),
    *_of(_TEMPLATES, "test_text_ids_and_trained_tokens_are_exact"),
)
_PAIRS = _of(_JOB_DATA, "test_pairs_in_every_format", "test_either_key_turns_pairs_on")
_DATASET_FOLDER = (
    *_of(
        "unit/data/test_dataset_folder", "test_by_names", "test_by_the_card", "test_what_cannot_be_chosen_says_what_can"
    ),
    *_of(_EXAMPLES, f"{_EXAMPLE}[data/dataset-folder.yaml]", f"{_EXAMPLE}[methods/clm-wikitext.yaml]"),
)


def _peft(kind: str) -> _Tests:
    """The losses, an exact resume, the export and the merge of a PEFT type, beside PEFT by hand."""
    return _of(_PEFT_TYPES, f"test_a_type_trains_as_by_hand_resumes_exports_and_merges[{kind}]")


def _quantised(*options: str) -> _Tests:
    return _of(_QUANT, *(f"test_an_option_trains_as_by_hand_and_resumes[{option}]" for option in options))


_TRAINED_TYPES = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "LORA", "ADALORA", "BOFT", "IA3"),
    *("ADAPTION_PROMPT", "LOHA", "LOKR", "OFT", "POLY", "LN_TUNING", "VERA", "FOURIERFT", "HRA", "VBLORA"),
)
_EVENTS = _of(_STEPS, "test_events") + _of(_EVALUATION, "test_every_event_is_a_validation_and_a_checkpoint")
_STOPPING = _of(
    _EVALUATION,
    "test_training_stops_and_the_best_evaluation_is_the_result",
    "test_patience_is_counted_as_transformers_counts_it",
)
_PRETRAINED = _of(
    "training/test_pretrained_adapter",
    "test_training_goes_on_as_by_hand_and_resumes",
    "test_an_adapter_that_cannot_be_continued_is_refused",
)
_ADAM = _of(_ARGUMENTS, "test_adamw_takes_its_numbers")
_BEST = _of(
    "training/test_checkpoints",
    "test_retention_keeps_the_newest_and_the_best",
    "test_best_strategy_saves_improvements_only",
)
_LOADER = _of(_ARGUMENTS, "test_the_loaders_keys_reach_it_and_change_no_loss")
_FORMATS = (
    *_of(_FILES, "test_the_format_is_given_or_the_endings", "test_the_same_rows_in_every_format"),
    *_of(_JOB_DATA, "test_pairs_in_every_format"),
    *_of(_CLM_TEXTS, "test_every_format_gives_the_same_rows"),
)
_REFUSED_MODEL_ARGS = (
    *("max_memory", "low_cpu_mem_usage", "offload_folder", "offload_state_dict", "offload_buffers"),
    *("cache_dir", "force_download", "local_files_only", "proxies", "code_revision", "token"),
)

OF_KEY: dict[str, _Tests] = {
    "method": _BY_HAND + _of(_DPO, "test_all_weights_agree_with_a_loop_written_by_hand") + _SCRIPT,
    # --- data
    "data_conf": _of(_DATASET, "test_files_follow_one_another"),
    "data_conf.training_data": _of(_DATASET, "test_files_follow_one_another"),
    "data_conf.training_data.type": _of(_DATASET, "test_files_follow_one_another")
    + _of(_MIXING, "test_equal_weights_take_turns_until_the_longest_is_used_up"),
    "data_conf.training_data.datasets": _of(_DATASET, "test_files_follow_one_another"),
    "data_conf.training_data.datasets[].path": _of("unit/api/test_locations", "test_forms")
    + _of(
        "training/data/test_download",
        "test_model_and_data_arrive_and_the_account_is_right",
        "test_claims_and_config_maps_are_read_from_their_mounts",
        "test_a_named_dataset_lies_where_its_config_map_says",
    ),
    "data_conf.training_data.datasets[].sampling_weight": _of(
        _MIXING, "test_draws_follow_the_weights", "test_a_weight_of_zero_leaves_a_dataset_out"
    ),
    "data_conf.training_data.seed": _of(
        _MIXING, "test_the_order_is_pinned", "test_as_the_datasets_library_mixes_with_the_same_draws"
    ),
    "data_conf.training_data.data_type": _of("unit/api/test_data_type", "test_the_kind_of_rows_follows_the_method"),
    "data_conf.validation_data": _of(_DATASET, "test_validation_files_are_read_like_training_files")
    + _of(_TRAINING, "test_validation_data_without_a_strategy_is_used_at_the_end"),
    "data_conf.validation_data.type": _of(_MIXING, "test_a_split_is_disjoint_whole_and_stable"),
    "data_conf.validation_data.data_type": _of("unit/api/test_data_type", "test_the_kind_of_rows_follows_the_method"),
    "data_conf.validation_data.ratio": _of(
        _MIXING, "test_a_split_is_disjoint_whole_and_stable", "test_the_default_split_is_pinned"
    ),
    "data_conf.validation_data.seed": _of(
        _MIXING, "test_a_split_is_disjoint_whole_and_stable", "test_the_default_split_is_pinned"
    ),
    "data_conf.validation_data.datasets[].path": _of(_DATASET, "test_validation_files_are_read_like_training_files"),
    "data_conf.chat_template_name": _TEMPLATE,
    "data_conf.max_examples": _of(_JOB_DATA, "test_max_examples")
    + _of("unit/data/test_assembling", "test_max_examples_is_the_beginning_of_the_whole"),
    "data_conf.input_key": _PAIRS,
    "data_conf.output_key": _PAIRS,
    "data_conf.training_data.datasets[].format": _FORMATS,
    "data_conf.training_data.datasets[].config": _DATASET_FOLDER,
    "data_conf.validation_data.datasets": _of(_DATASET, "test_validation_files_are_read_like_training_files"),
    "data_conf.validation_data.datasets[].format": _FORMATS,
    "data_conf.validation_data.datasets[].config": _DATASET_FOLDER,
    "data_conf.training_data.datasets[].split": _DATASET_FOLDER,
    "data_conf.validation_data.datasets[].split": _DATASET_FOLDER,
    "data_conf.padding_side": _of(_PADDING, "test_mask_and_labels_go_by_position")
    + _of(_TRAINING, "test_padding_side_changes_nothing"),
    "data_conf.missing_pad_token_strategy": _of(_PADDING, "test_the_four_strategies"),
    "sft_args": _of(_DATASET, "test_rows_that_are_too_long_are_dropped_and_counted"),
    "sft_args.max_seq_length": _of(_DATASET, "test_rows_that_are_too_long_are_dropped_and_counted"),
    "sft_args.overlength": _of(_JOB_DATA, "test_the_report_counts_everything")
    + _of(_PACKING, "test_losses_and_gradients_are_those_of_the_documents_alone", "test_no_document_sees_another"),
    "sft_args.padding": _of(_PACKING, "test_neither_width_nor_side_nor_token_of_padding_changes_the_loss")
    + _of(_JOB_DATA, "test_padding_to_the_maximum"),
    "sft_args.save_name_if_new_basemodel": _of(_MODEL_ARGS, "test_a_grown_base_model_is_saved_under_the_name_given")
    + _of("training/test_vocabulary", "test_an_adapter_trains_new_tokens_and_stands_on_the_new_base_model"),
    "sft_args.train_on_completions_only": _of(_TEMPLATES, "test_text_ids_and_trained_tokens_are_exact")
    + _of(_TEMPLATES, "test_without_completions_only_every_token_is_trained"),
    "clm_args.block_size": _of(
        _CLM_TEXTS, "test_truncate_cuts_as_the_tokenizer_does", "test_pack_joins_everything_and_loses_no_token"
    ),
    "clm_args.overlength": _of(
        _CLM_TEXTS,
        "test_truncate_cuts_as_the_tokenizer_does",
        "test_drop_leaves_out_what_is_longer",
        "test_pack_joins_everything_and_loses_no_token",
    ),
    "clm_args.padding": _of(_CLM_TEXTS, "test_padding_of_gpt2_is_masked_by_position") + _SCRIPT,
    "clm_args.text_key": _of(_CLM_TEXTS, "test_text_key_names_the_key_or_column"),
    # --- batches
    "batchsize_conf": _of(_BATCH, "test_vectors"),
    "batchsize_conf.total_train_batch_size": _of(_BATCH, "test_vectors", "test_the_total_is_kept_and_the_limit_held"),
    "batchsize_conf.max_per_device_train_batch_size": _of(
        _BATCH, "test_vectors", "test_the_total_is_kept_and_the_limit_held"
    ),
    "batchsize_conf.per_device_eval_batch_size": _of(_BATCH, "test_the_evaluation_batch_can_be_given")
    + _of(_TRAINING, "test_evaluation_does_not_depend_on_its_batch"),
    # --- training
    "training_args": _of("unit/api/test_training_args", "test_the_model_has_every_key_and_no_other") + _BY_HAND,
    "training_args.learning_rate": _BY_HAND
    + _of("unit/api/test_preference_rules", "test_the_learning_rate_is_trls_unless_given"),
    "training_args.lr_scheduler_type": _of(_OPTIMIZER, "test_every_schedule_takes_its_arguments"),
    "training_args.warmup_steps": _of(
        _OPTIMIZER, "test_warmup_in_steps_or_as_a_share", "test_every_schedule_takes_its_arguments"
    ),
    "training_args.weight_decay": _of(_OPTIMIZER, "test_biases_and_norms_are_not_decayed") + _ADAM,
    "training_args.adam_beta1": _ADAM,
    "training_args.adam_beta2": _ADAM,
    "training_args.adam_epsilon": _ADAM,
    "training_args.lr_scheduler_kwargs": _of(_OPTIMIZER, "test_every_schedule_takes_its_arguments"),
    "training_args.optim_args": _of(
        _OPTIMIZER, "test_every_optimizer_learns_and_resumes", "test_arguments_that_do_not_fit_are_refused"
    ),
    "training_args.label_smoothing_factor": _of(_TRAINING, "test_switches_take_effect[label_smoothing_factor]"),
    "training_args.full_determinism": _of(_TRAINING, "test_switches_take_effect[full_determinism]"),
    "training_args.train_sampling_strategy": _of(_TRAINING, "test_length_grouping_trains_every_row_once_an_epoch")
    + _of("training/test_sampler", "test_grouping_begins_with_the_longest_row_and_keeps_like_lengths_together"),
    "training_args.seed": _of(_ARGUMENTS, "test_seeds_decide_order_and_dropout"),
    "training_args.data_seed": _of(_ARGUMENTS, "test_seeds_decide_order_and_dropout"),
    "training_args.tf32": _of(_ARGUMENTS, "test_tf32_is_switched_on_a_gpu"),
    "training_args.use_cpu": _of(_ARGUMENTS, "test_use_cpu_asks_for_what_a_job_without_gpus_does"),
    "training_args.log_level": _of(_ARGUMENTS, "test_log_level_is_that_of_the_log"),
    "training_args.logging_strategy": _of(_ARGUMENTS, "test_the_loss_is_logged_as_asked"),
    "training_args.logging_first_step": _of(_MODEL_ARGS, "test_the_first_step_is_logged_when_asked"),
    "training_args.eval_steps": _of(_TRAINING, "test_shares_of_all_steps_are_steps")
    + _of(_ARGUMENTS, "test_evaluation_begins_after_its_delay"),
    "training_args.eval_delay": _of(_ARGUMENTS, "test_evaluation_begins_after_its_delay"),
    "training_args.eval_on_start": _of(_TRAINING, "test_evaluation_does_not_depend_on_its_batch"),
    "training_args.save_total_limit": _of("training/test_checkpoints", "test_prune") + _BEST,
    "training_args.load_best_model_at_end": _BEST,
    "training_args.metric_for_best_model": _BEST,
    "training_args.greater_is_better": _of(_RESOLVE, "test_dependent_defaults") + _BEST,
    "training_args.gradient_checkpointing_kwargs": _of(_ARGUMENTS, "test_checkpointing_takes_its_arguments"),
    "training_args.dataloader_num_workers": _LOADER,
    "training_args.dataloader_prefetch_factor": _LOADER,
    "training_args.dataloader_persistent_workers": _LOADER,
    "training_args.dataloader_pin_memory": _of(_ARGUMENTS, "test_memory_is_pinned_for_a_gpu"),
    "training_args.max_grad_norm": _BY_HAND,
    "training_args.optim": _of(_OPTIMIZER, "test_every_optimizer_learns_and_resumes")
    + _of(_MORE_OPTIMIZERS, "test_optimizers_of_torch_by_hand", "test_optimizers_of_bitsandbytes"),
    "training_args.neftune_noise_alpha": _of(
        _MORE_OPTIMIZERS,
        "test_noise_on_embeddings_is_that_of_transformers",
        "test_noise_is_left_out_of_evaluation",
    ),
    "training_args.num_train_epochs": _of(_STEPS, "test_steps"),
    "training_args.max_steps": _of(_RESOLVE, "test_max_steps_wins_with_a_notice") + _of(_STEPS, "test_steps"),
    "training_args.logging_steps": _of(_TRAINING, "test_shares_of_all_steps_are_steps"),
    "training_args.eval_strategy": _of(_TRAINING, "test_the_loss_falls", "test_shares_of_all_steps_are_steps"),
    "training_args.save_steps": _of(_TRAINING, "test_shares_of_all_steps_are_steps"),
    "training_args.save_strategy": _of(
        "training/test_checkpoints",
        "test_retention_keeps_the_newest_and_the_best",
        "test_without_checkpoints_a_stopped_run_starts_over",
    ),
    "training_args.gradient_checkpointing": _of(_TRAINING, "test_switches_take_effect[gradient_checkpointing]"),
    "training_args.bf16": _of(_PRECISION, "test_bf16_works_on_cpu", "test_precision_by_device"),
    "training_args.fp16": _of(_PRECISION, "test_half_precision_trains_like_the_whole", "test_precision_by_device"),
    # --- overrides
    "overrides": _of(_RESOLVE, "test_lifted_and_nested_overrides_are_one"),
    "overrides.num_train_epochs": _of(_RESOLVE, "test_epochs_of_overrides_win_over_training_args"),
    "overrides.lr_multiplier": _of(_RESOLVE, "test_learning_rate"),
    "overrides.lr_batch_size_scaling": _of(_RESOLVE, "test_learning_rate"),
    "overrides.auto": _of(
        _AUTO,
        "test_the_largest_batch_that_fits_trains_as_if_it_had_been_given",
        "test_the_rate_that_was_found_trains_as_if_it_had_been_given",
    )
    + _of(_PRECISION, "test_precision_by_device"),
    "overrides.min_update_steps": _of(_STEPS, "test_steps"),
    "evaluation_conf.every_n_epochs": _EVENTS,
    "evaluation_conf.max_events": _EVENTS,
    "evaluation_conf.keep_best": _of(
        _EVALUATION,
        "test_the_best_and_the_newest_are_kept",
        "test_the_best_checkpoints_stay_here_and_in_the_remote_store",
    ),
    "evaluation_conf.early_stopping_patience": _STOPPING,
    "evaluation_conf.early_stopping_threshold": _STOPPING,
    "evaluation_conf.sample_prompts": _of(
        _SAMPLES, "test_samples_at_every_evaluation_and_the_same_losses", "test_samples_go_to_mlflow"
    ),
    "evaluation_conf.sample_max_new_tokens": _of(
        _SAMPLES,
        "test_the_answer_is_greedy_after_the_chat_template",
        "test_a_prompt_without_room_for_an_answer_is_refused",
    ),
    # --- preferences
    "dpo_args.beta": _of(_DPO, "test_all_weights_agree_with_a_loop_written_by_hand")
    + _of(_DPO_TRL, "test_steps_are_those_of_trl"),
    "dpo_args.max_seq_length": _of(_PREFERENCE, "test_long_pairs_are_dropped_and_counted"),
    "dpo_args.overlength": _of(
        _PREFERENCE,
        "test_long_pairs_are_dropped_and_counted",
        "test_long_pairs_are_cut_at_their_end_if_asked_for",
    ),
    "dpo_args.precompute_ref_log_probs": _of(
        _DPO, "test_precomputed_references_give_the_same_steps_and_are_computed_once"
    ),
    "dpo_args.disable_dropout": _of(_DPO, "test_dropout_is_off_unless_asked_for"),
    **{
        f"dpo_args.{key}": _of(_DPO, "test_a_moving_reference_follows_by_its_share")
        + _of(_DPO_TRL, "test_steps_are_those_of_trl")
        for key in ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps")
    },
    **{
        f"dpo_args.{key}": _of(_DPO_TRL, "test_steps_are_those_of_trl")
        for key in (
            *("loss_type", "label_smoothing", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef"),
            *("use_weighting", "discopop_tau"),
        )
    },
    # --- quantisation
    "quant_conf": _of(_QUANT, "test_an_option_trains_as_by_hand_and_resumes"),
    "quant_conf.quantization_type": _of(_QUANT, "test_an_option_trains_as_by_hand_and_resumes"),
    "quant_conf.load_in_8bit": _quantised("int8") + _of(_QUANT, "test_the_merge_goes_into_the_original_weights"),
    "quant_conf.load_in_4bit": _quantised("fp4") + _of(_QUANT, "test_the_merge_goes_into_the_original_weights"),
    "quant_conf.llm_int8_threshold": _quantised("int8, threshold"),
    "quant_conf.llm_int8_skip_modules": _quantised("fp4, some modules")
    + _of(_QUANT, "test_what_cannot_be_done_on_a_quantised_model_is_refused"),
    "quant_conf.llm_int8_enable_fp32_cpu_offload": _support("quant_conf.llm_int8_enable_fp32_cpu_offload"),
    "quant_conf.llm_int8_has_fp16_weight": _quantised("int8, 16-bit weights"),
    "quant_conf.bnb_4bit_compute_dtype": _quantised("nf4, bf16"),
    "quant_conf.bnb_4bit_quant_type": _quantised("nf4", "fp4"),
    "quant_conf.bnb_4bit_use_double_quant": _quantised("nf4, nested"),
    "quant_conf.bnb_4bit_quant_storage": _quantised("nf4, bf16"),
    # --- adapters
    "peft_conf": _of(_EXAMPLES, f"{_EXAMPLE}[lora.yaml]"),
    "peft_conf.peft_type": _of(
        _PEFT_TYPES, "test_every_type_is_tried_here", "test_a_type_trains_as_by_hand_resumes_exports_and_merges"
    ),
    "peft_conf.name_or_path": _PRETRAINED,
    "peft_conf.peft_kwargs": _LORA,
    "peft_conf.task_type": _support("peft_conf.task_type"),
    **{
        f"peft_conf.peft_kwargs.{key}": _LORA
        for key in (
            *("r", "lora_alpha", "target_modules", "modules_to_save", "bias", "fan_in_fan_out", "init_lora_weights"),
        )
    },
    # --- the model
    "basemodel": _of("training/data/test_download", "test_model_and_data_arrive_and_the_account_is_right")
    + _of("training/data/test_download_hub", "test_a_repository_without_what_the_glob_excludes"),
    "checkpointsRemote": _of("training/test_remote", "test_checkpoints_and_result_are_copied_and_pruned_alike")
    + _of("training/test_export", "test_a_fine_tuned_model_loads_and_generates"),
    "run_conf": _of("training/test_export", "test_a_fine_tuned_model_loads_and_generates"),
    "run_conf.model": _support("run_conf.model"),
    "run_conf.tokenizer": _of(_MODEL_ARGS, "test_another_tokenizer_is_used_and_exported"),
    "run_conf.use_fast_tokenizer": _support("run_conf.use_fast_tokenizer"),
    "run_conf.final_checkpoint_name": _support("run_conf.final_checkpoint_name"),
    "run_conf.resume_from_checkpoint": _of(
        "training/test_checkpoints",
        "test_a_stopped_run_ends_like_an_uninterrupted_one",
        "test_starting_over_moves_an_earlier_job_aside",
        "test_auto_takes_what_an_earlier_job_left",
        "test_a_path_is_continued",
    ),
    "run_conf.model_args": _of(_MODEL_ARGS, "test_torch_dtype_is_the_type_of_the_result"),
    "run_conf.model_args.torch_dtype": _of(_MODEL_ARGS, "test_torch_dtype_is_the_type_of_the_result"),
    "run_conf.model_args.attn_implementation": _of(
        _MODEL_ARGS, "test_attn_implementation_is_the_models", "test_an_attention_that_is_not_installed_is_refused"
    ),
    "run_conf.model_args.use_cache": _of(_MODEL_ARGS, "test_use_cache_is_the_setting_of_the_result"),
    "run_conf.model_args.subfolder": _of(_MODEL_ARGS, "test_subfolder_is_where_the_model_lies"),
    "run_conf.model_args.use_safetensors": _of(_MODEL_ARGS, "test_use_safetensors_refuses_or_takes_other_weight_files"),
    "run_conf.model_args.variant": _of(_MODEL_ARGS, "test_variant_names_the_weight_files"),
    "run_conf.model_args.revision": _of(
        _HUB, "test_a_repository_without_what_the_glob_excludes", "test_what_the_hub_does_not_have"
    ),
    "run_conf.model_args.device_map": _of(
        "unit/api/test_placement", "test_a_map_places_the_model", "test_a_map_that_would_have_no_effect_is_refused"
    ),
    "run_conf.model_args.trust_remote_code": _of(
        "training/test_remote_code", "test_code_of_the_model_runs_only_if_it_is_trusted"
    ),
    "run_conf.model_args.resume_download": _of(_RESOLVE, "test_notices"),
    **{f"run_conf.model_args.{key}": _support(f"run_conf.model_args.{key}") for key in _REFUSED_MODEL_ARGS},
    "run_conf.model_hyperparameters.dropout": _of(
        _CLM_MODEL, "test_dropout_by_every_name_that_it_has", "test_dropout_of_a_pretrained_model"
    ),
    "run_conf.from_scratch": _of(
        _CLM_MODEL, "test_from_scratch_trains_saves_and_resumes", "test_the_download_accepts_a_model_without_weights"
    ),
    "run_conf.model_hyperparameters": _SIZES,
    **{
        f"run_conf.model_hyperparameters.{key}": _SIZES
        for key in (
            *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size"),
            *("intermediate_size", "max_position_embeddings", "vocab_size"),
        )
    },
    # --- tracking
    "tracking": _of(_TRACKING, "test_a_job_is_one_run_through_its_attempts"),
    "tracking.mlflow_server_uri": _of(
        _TRACKING, "test_a_job_is_one_run_through_its_attempts", "test_a_database_needs_no_server"
    ),
    "tracking.experiment_name": _of(_TRACKING, "test_a_job_is_one_run_through_its_attempts"),
    "tracking.run_name": _of(_TRACKING, "test_a_job_is_one_run_through_its_attempts"),
    "tracking.run_id": _of(_TRACKING, "test_a_run_that_does_not_exist_is_said_and_nothing_waits")
    + _of(_RESOLVE, "test_notices"),
    "tracking.hf_mlflow_log_artifacts": _of(_TRACKING, "test_a_database_needs_no_server"),
    # --- where it runs
    "finetuningGpus": _of("unit/operator/test_builders", "test_gpus_only_where_they_are_asked_for")
    + _of("unit/operator/test_plan", "test_more_gpus_than_a_node_has_are_capped_with_a_notice"),
    "nodes": _of("training/test_nodes", "test_all_nodes_agree_on_one_world"),
    "acceleratorType": _of("unit/operator/test_builders", "test_the_download_runs_where_the_gpus_are")
    + _of("unit/operator/test_settings", "test_accelerators_map_to_node_labels"),
    "distributedType": _of("training/test_sharding", "test_split_training_equals_one_process"),
}

OF_ROW: dict[tuple[str, str, str], _Tests] = {
    ("002", "Batch Size", "batch size"): _of(_BATCH, "test_vectors")
    + _of(_AUTO, "test_the_largest_batch_that_fits_trains_as_if_it_had_been_given"),
    ("002", "Learning Rate", "learning rate"): _BY_HAND
    + _of(_AUTO, "test_the_rate_that_was_found_trains_as_if_it_had_been_given"),
    ("002", "BFloat16 vs Float16", "bfloat16"): _of(_PRECISION, "test_bf16_works_on_cpu", "test_precision_by_device"),
    ("002", "BFloat16 vs Float16", "float16"): _of(
        _PRECISION, "test_half_precision_trains_like_the_whole", "test_precision_by_device"
    ),
    ("002", "BFloat16 vs Float16", "float32"): _of(_PRECISION, "test_what_leaves_the_precision_to_the_device"),
    ("002", "BFloat16 vs Float16", "overflow"): _of(
        _PRECISION,
        "test_a_model_that_fp16_cannot_hold_is_trained_in_fp32",
        "test_an_overflow_in_the_middle_goes_on_from_the_last_good_checkpoint",
        "test_an_explicit_precision_fails_and_names_the_way_out",
    ),
    ("002", "Epochs and steps", "gradient accumulation"): _of(_TRAINING, "test_accumulation_changes_nothing"),
    ("003", "NoneDataInput", "type"): _of(_MODEL_ARGS, "test_no_validation_data_is_no_validation"),
    ("003", "NoPeftConfig", "peft_type"): _BY_HAND,
    ("003", "PretrainedPeftConfig", "peft_type"): _PRETRAINED,
    ("003", "NoQuantizationConfig", "quantization_type"): _BY_HAND,
    **{("003", "PeftType", kind): _peft(kind) for kind in _TRAINED_TYPES},
    ("003", "PeftType", "XLORA"): _of(
        "schema/test_validate_table", "test_refused_manifests_name_the_key_and_the_fix[an adapter over adapters]"
    )
    + _of("schema/test_admission", "test_refused_manifests_are_refused_with_the_message[an adapter over adapters]"),
    ("001", "lora_config", "lora_dropout"): _LORA + _peft("LORA"),
    ("003", "ConcatenationDataInput", "type"): _of(_DATASET, "test_files_follow_one_another"),
    ("003", "WeightedMixDataInput", "type"): _of(_MIXING, "test_equal_weights_take_turns_until_the_longest_is_used_up")
    + _of(_DATASET, "test_a_mix_draws_from_usable_rows_and_leaves_unweighted_files_unread"),
    ("003", "chat_template_name", "keep-original"): _of(
        _TEMPLATES, "TestKeepOriginal::test_completion_spans", "TestKeepOriginal::test_renders_as_transformers_does"
    ),
    ("004", "TrainingArguments", "evaluation_strategy"): _of(_RESOLVE, "test_old_names_are_translated") + _SCRIPT,
    **{
        ("004", "TrainingArguments", key): _SCRIPT
        for key in (
            "learning_rate",
            "num_train_epochs",
            "weight_decay",
            "warmup_steps",
            "logging_steps",
            "save_strategy",
        )
    },
    ("004", "save_pretrained", "model"): _of(_CLM_TRAINING, "test_what_is_saved_loads_and_continues_text"),
    ("004", "save_pretrained", "tokenizer"): _of(_CLM_TRAINING, "test_what_is_saved_loads_and_continues_text"),
}


def of(row: Parameter) -> _Tests:
    """The tests of a row: what shows that it acts, then what shows its conversion."""
    own = OF_ROW.get((row.document, row.section, row.key))
    acts = own or tuple(test for key in row.ours for test in OF_KEY.get(key, ()))
    return tuple(dict.fromkeys((*acts, *converted(row))))


def converted(row: Parameter) -> _Tests:
    """The tests that a parameter of another system becomes the right key of ours, or an error that names it."""
    if row.document == "000":
        memory = ("test_memory_tuning_is_an_error_for_every_key_of_it",) if row.key.startswith("index_") else ()
        return _of(_CONVERT, f"test_no_argument_of_lamini_is_lost[{row.name}]", *memory)
    if row.document == "001":
        whole = row.beyond or row.default is None
        return _of(_CONVERT, "test_a_whole_llmforge_file" if whole else f"test_no_key_of_llmforge_is_lost[{row.name}]")
    return _of(_CONVERT, "test_the_script_of_document_004") if row.document == "004" else ()
