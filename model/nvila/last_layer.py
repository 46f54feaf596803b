"""The last layer of the language model, worked out only where somebody reads it.

Behind a prefix, questions need the keys and values of all its tokens and nothing else of the last layer; of a question
itself, only the tokens that an answer is predicted from are read. The rest of the layer (queries, attention, the wide
product, together nine tenths of it) would be thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.nvila.transformers_parts import (
    ALL_ATTENTION_FUNCTIONS,
    Qwen2ForCausalLM,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


@contextmanager
def last_layer_at(llm: Qwen2ForCausalLM, places: Tensor | None) -> Iterator[None]:
    """Let the language model's last layer give the outputs of some tokens alone until the block ends.

    places: int [B, N], of each row of the batch; the last hidden state is then [B, N, hidden]. None: of no token, and
    the last hidden state means nothing. The cache holds what it would hold otherwise. For inference, and one thread.
    """
    layer = llm.model.layers[-1]
    layer.forward = partial(_run, layer, places)
    try:
        yield
    finally:
        del layer.forward  # the class's own again


def _run(
    layer: Any,
    places: Tensor | None,
    hidden_states: Tensor,
    *,
    attention_mask: Tensor | None,
    position_embeddings: tuple[Tensor, Tensor],
    past_key_values: Any,
    **_unused: Any,
) -> Tensor:
    """As `Qwen2DecoderLayer.forward`, in its order of operations."""
    attention, normal = layer.self_attn, layer.input_layernorm(hidden_states)
    keys, values = (_by_heads(project(normal), attention) for project in (attention.k_proj, attention.v_proj))
    cosines, sines = position_embeddings
    # The function turns queries and keys together; here each goes alone, with nothing in the place of the other.
    keys = apply_rotary_pos_emb(keys[:, :0], keys, cosines, sines)[1]
    keys, values = past_key_values.update(keys, values, attention.layer_idx)
    # Only the cache was wanted: nobody reads the last hidden states of a prefix.
    if places is None:
        return hidden_states
    rows = torch.arange(len(places), device=places.device)[:, None]
    # Queries are few and keep the positions of the columns that they stand in.
    turned = [part.expand(len(places), -1, -1)[rows, places] for part in (cosines, sines)]
    queries = _by_heads(attention.q_proj(normal[rows, places]), attention)
    queries = apply_rotary_pos_emb(queries, queries[:, :0], *turned)[0]
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    mask = attention_mask[rows, 0, places][:, None] if attention_mask is not None else None
    seen, _ = attend(
        attention,
        queries,
        keys,
        values,
        mask,
        dropout=0.0,
        scaling=attention.scaling,
        sliding_window=attention.sliding_window,
    )
    hidden: Tensor = hidden_states[rows, places] + attention.o_proj(seen.reshape(*places.shape, -1))
    wide: Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden + wide


def _by_heads(projected: Tensor, attention: Any) -> Tensor:
    """[B, L, heads * width] -> [B, heads, L, width]."""
    return projected.view(*projected.shape[:-1], -1, attention.head_dim).transpose(1, 2)
