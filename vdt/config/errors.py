"""Messages about a word or a value that is not accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ConfigError(ValueError):
    """Configuration value that is unknown, of the wrong type, or outside its range."""


def _name_again(**names: str) -> dict[str, tuple[str, ...]]:
    """Map each other name to the last parts of keys, from last part -> other names."""
    pairs = [(other, leaf) for leaf, others in names.items() for other in others.split()]
    return {other: tuple(leaf for name, leaf in pairs if name == other) for other, _ in pairs}


ALIASES = _name_again(  # names in other code bases of the last part of a key
    learning_rate="lr",
    actor_learning_rate="lr",
    discount="gamma",
    target_update_rate="tau polyak soft_update ema",
    expectile="tau iql_tau quantile",
    inverse_temperature="eta beta temperature",
    initial_temperature="temperature alpha",
    q_coefficient="lambda alpha eta q_weight",
    conservative_coefficient="alpha cql_alpha cql_weight min_q_weight",
    context_length="k context window context_len seq_len max_len",
    embedding_size="hidden_dim hidden width d_model n_embd embed_dim embedding_dim dim",
    hidden_size="hidden_dim hidden width dim units",
    layers="n_layers n_layer num_layers depth n_blocks",
    hidden_layers="n_layers num_layers depth n_hidden",
    heads="n_heads n_head num_heads attention_heads",
    batch_size="batch bs batchsize mini_batch_size",
    gradient_steps="epochs n_epochs iterations updates num_steps n_steps max_steps train_steps num_updates max_iters",
    environment_steps="env_steps online_steps total_timesteps timesteps interactions",
    n_step="n nstep n_steps",
    warmup_steps="warmup warm_up",
    weight_decay="wd decay",
    gradient_clip="clip grad_clip clip_grad max_grad_norm grad_norm",
    max_advantage_weight="clip weight_clip w_max max_weight adv_clip",
    planning_horizon="e lookahead",
    lookahead_horizon="lookahead",
    candidates="m n_candidates num_candidates",
    candidate_returns="rtg target_return target_returns returns_to_go",
    exploration_noise="noise sigma",
    target_action_noise="noise policy_noise",
    buffer_trajectories="buffer buffer_size capacity replay_size",
    episodes="eval_episodes n_episodes num_episodes num_eval_episodes",
    device="gpu cuda cpu",
    threads="num_threads n_threads cores workers num_workers",
    precision="amp fp16 bf16 bfloat16 dtype mixed_precision",
    return_scale="scale rtg_scale",
    interval_steps="save_every checkpoint_every save_interval",
    interval_seconds="save_every save_interval",
    held_out_fraction="val_fraction test_fraction validation_fraction holdout",
)


NEAR = 0.65  # likeness of a word that may be meant; 'Pendulum-v1' and 'pen-human-v1' have 0.61
SHORTEST = 3  # letters of a beginning that says something
LIST_KEYS = "`vdt keys` lists all keys"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'a' or 'b'?` for near words, or those with the same beginning; else an empty string."""
    words, stem = list(known), word.lower().partition("-")[0]
    alike = [name for name in words if name.lower().startswith(stem)] if len(stem) >= SHORTEST else []
    return _ask(difflib.get_close_matches(word, words, n=3, cutoff=NEAR) or alike[:3])


def list_known(word: str, known: Iterable[str]) -> str:
    """Return the near words and all known ones, to stand behind an unknown word: `; did you mean 'a'? Known: a, b`."""
    words = list(known)
    return f"{suggest(word, words) or '.'} Known: {', '.join(words)}"


def suggest_key(key: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` for a dotted key: by its last part or another name for that, then by likeness."""
    keys = list(known)
    section, _, last = key.rpartition(".")
    wanted = {last, *ALIASES.get(last.lower().replace("-", "_"), ())}
    near = [name for name in keys if name.rpartition(".")[2] in wanted]
    near = [name for name in near if section and name.startswith(f"{section}.")] or near
    if near:
        return _ask(near[:4])
    for pool in ([name for name in keys if section and name.startswith(f"{section}.")], keys):
        leaves = difflib.get_close_matches(
            last, dict.fromkeys(name.rpartition(".")[2] for name in pool), n=2, cutoff=0.6
        )
        if leaves:
            return _ask([name for leaf in leaves for name in pool if name.rpartition(".")[2] == leaf][:4])
    return suggest(key, keys) or f"; {LIST_KEYS}"


def _ask(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
