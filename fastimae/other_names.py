"""Names that other codes use for our flags, and what to do where we have no such flag."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping

from fastimae.wording import nearest, squeezed

_SAME = {
    "ffcv data_path src data": "data data_dir dataset dataset_path data_root root input input_dir "
    "train train_dir train_path train_data imagenet beton ffcv data_path",
    "val": "val_path val_dir val_data test test_path test_dir valid validation",
    "output_dir output out": "o out out_dir outdir output output_dir output_path save_dir "
    "save_path savedir work_dir results_dir default_root_dir",
    "checkpoint": "ckpt ckpt_path checkpoint_path pretrained pretrained_weights weights load "
    "load_from model_path checkpoint",
    "log_dir": "log_path logdir tb_dir tensorboard_dir",
    "lr blr": "learning_rate",
    "blr": "base_lr base_learning_rate",
    "min_lr": "eta_min final_lr lr_min min_learning_rate",
    "weight_decay": "wd weight_decay_end",
    "clip_grad": "clip clip_grad_norm grad_clip gradient_clip_val max_grad_norm max_norm",
    "batch_size": "b bs batch per_device_train_batch_size train_batch_size",
    "accum_iter": "accumulate_grad_batches accum_steps grad_accum gradient_accumulation_steps "
    "update_freq",
    "epochs": "e max_epochs n_epochs num_epochs num_train_epochs",
    "warmup_epochs": "warmup warmup_ep",
    "num_workers workers": "j n_workers num_threads num_workers nw threads workers",
    "pin_mem": "pin_memory",
    "model": "a arch architecture backbone model_name network",
    "input_size": "image_size img_size imgsz res resolution size",
    "in_chans": "channels in_channels num_channels",
    "mask_ratio mask_ratios": "mask mask_prob mask_ratio mask_ratios masking_ratio",
    "norm_pix_loss": "norm_pix norm_target normalize_target",
    "mix_ratios mix_lambda": "alpha lam lambda mix_ratio mixing_ratio",
    "same_class_ratio": "same_class same_class_prob",
    "teacher": "teacher_ckpt teacher_model teacher_checkpoint",
    "grad_checkpointing": "activation_checkpointing checkpointing gradient_checkpointing "
    "use_checkpoint",
    "compile": "torch_compile torchcompile",
    "opt": "optim optimizer",
    "model_ema use_ema": "ema",
    "model_ema": "ema_decay ema_rate model_ema_decay",
    "probe_freq val_freq": "eval_every eval_freq eval_interval eval_period test_freq val_every "
    "val_interval",
    "probe_freq": "knn_freq online_probe probe probe_every",
    "cache": "cache_images cache_mode in_memory preload",
    "save_freq": "checkpoint_freq save_ckpt_freq save_every save_interval",
    "log_steps": "log_every log_freq log_interval print_freq",
    "seed": "manual_seed random_seed",
    "wandb": "use_wandb wandb_project",
    "config": "c cfg config_file yaml",
    "label_field": "label label_key",
    "max_resolution": "max_size resize",
    "jpeg_quality": "q quality",
    "limit samples": "max_samples n num_samples subset",
    "overwrite force": "f force overwrite yes y",
    "to": "format layout target",
    "k": "n_neighbors nb_knn num_neighbors neighbors",
}
"""Our names, of which a command has some -> names elsewhere."""

_CUDA = "{device} cuda, {device} cuda:1 or {device} cpu chooses the device, torchrun uses several"
_LAUNCHED = "torchrun or srun starts several processes without a flag"
_RESUMED = "{resume} FILE continues a run, {init} FILE starts a new one from its weights"
_HALF_COSINE = "the rate rises over {warmup_epochs} and then follows half a cosine"
_PRECISION = "{precision} bf16, fp16 or fp32 chooses the number format"
_NAMED = "the model's name says it, such as {model} mae_vit_small_patch16"
_INSTEAD = {
    _CUDA: "accelerator cpu cuda devices gpu gpu_ids gpus n_gpu ngpus no_cuda num_gpus use_gpu",
    _LAUNCHED: "ddp dist dist_backend distributed launcher local_world_size master_addr "
    "master_port multiprocessing_distributed nnodes node_rank nodes nproc_per_node num_nodes rank "
    "strategy",
    _RESUMED: "checkpoint checkpoint_path ckpt ckpt_path finetune load load_from model_path "
    "pretrain pretrained pretrained_weights restore weights",
    _PRECISION: "amp autocast bf16 bfloat16 dtype float16 fp16 fp32 half mixed_precision no_amp "
    "use_amp use_bf16 use_fp16",
    "{resume} auto continues the last run": "auto_resume continue",
    "fastimae-eval knn, linear or finetune evaluates a checkpoint": "eval eval_only evaluate "
    "test_only validate",
    "{output_dir} FOLDER names a run": "exp exp_name experiment name project run_name tag",
    _HALF_COSINE: "cooldown_epochs decay_epochs lr_policy lr_schedule lr_scheduler sched scheduler",
    "betas are fixed at 0.9 and 0.95, as in MAE": "adam_beta1 adam_beta2 beta1 beta2 betas "
    "momentum opt_betas",
    "{epochs} sets the length of a run": "iters iterations max_iters max_steps num_steps steps "
    "total_steps",
    "warm-up is given in epochs: {warmup_epochs}": "warmup_iters warmup_steps",
    _NAMED: "depth embed_dim hidden_size num_layers patch_size",
    "the data decide it": "n_classes nb_classes num_classes",
    "{crop} none shows whole images, {hflip} mirrors them": "aug augment augmentation transform "
    "transforms",
}
"""What to do instead -> names elsewhere of what has no counterpart."""


def _inverted(table: Mapping[str, str]) -> dict[str, str]:
    return {squeezed(name): ours for ours, names in table.items() for name in names.split()}


_OURS, _ADVICE = _inverted(_SAME), _inverted(_INSTEAD)


def suggestion(
    word: str, names: Mapping[str, str], positional: Collection[str] = (), near: bool = True
) -> str:
    """Return what to write instead of an unknown name; "" if nothing comes close.

    names: how to write each setting there is. positional: those that are given without a name.
    near: also guess by similarity.
    """
    word = squeezed(word)
    same = [name for name in names if squeezed(name) == word and name not in positional]
    ours = [name for name in _OURS.get(word, "").split() if name in names]
    if word in map(squeezed, positional):
        ours = [name for name in positional if squeezed(name) == word]
    if same:
        return f"did you mean {names[same[0]]}?"
    if ours:
        return _use(ours, names, positional)
    if advice := _filled_in(_ADVICE.get(word, ""), names):
        return advice
    guesses = _guesses(word, [name for name in names if name not in positional]) if near else []
    return f"did you mean {' or '.join(names[name] for name in guesses)}?" if guesses else ""


def _use(ours: list[str], names: Mapping[str, str], positional: Collection[str]) -> str:
    written = " or ".join(names[name] for name in ours)
    return f"give {written} without a flag" if ours[0] in positional else f"use {written}"


def _filled_in(advice: str, names: Mapping[str, str]) -> str:
    """Return the advice with our names as they are written here; "" if one is missing here."""
    fields = {field for _, field, _, _ in string.Formatter().parse(advice) if field}
    return advice.format_map(names) if fields <= names.keys() else ""


def _guesses(word: str, names: Collection[str]) -> list[str]:
    begun = [name for name in names if len(word) > 2 and squeezed(name).startswith(word)]
    return sorted(begun, key=len)[:2] or nearest(word, names, 2, 0.7)[:2]
