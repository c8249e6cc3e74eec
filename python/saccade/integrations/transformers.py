"""saccade inside Hugging Face Transformers (>= 5): `attn_implementation="saccade"`.

    import saccade.integrations.transformers as bridge
    bridge.register()
    model = AutoModel.from_pretrained(path, attn_implementation="saccade")

Transformers builds masks only for implementations that have a mask function; without one it hands over no mask at all
and padding leaks into every row. `register` therefore registers both.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

import saccade

NAME = "saccade"


def register(name: str = NAME) -> str:
    """Registers the attention and its mask function under `name` and returns the name. Calling it again is harmless."""
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, attention_mask)
    return name


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> torch.Tensor | None:
    """A bool mask (B, 1, Nq, Nk), True = visible, or None where `attention_forward` needs none.

    None for a causal layer means our bottom-right causal. sdpa's own rule is top-left and slices the keys of a
    half-empty static cache, so such a prefill gets a real mask here; a chunked prefill on a filled cache, which sdpa
    masks, needs none.
    """
    plain = (
        allow_is_causal_skip
        and isinstance(q_offset, int)
        and q_offset + q_length == kv_offset + kv_length
        and (local_size is None or kv_length < local_size)
        and not torch.compiler.is_compiling()
        and (attention_mask is None or bool(attention_mask[:, kv_offset : kv_offset + kv_length].all()))
    )
    if plain:
        return None
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=False,
        **kwargs,
    )


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, Hq, Nq, D), key (B, Hk, Nk, D), value (B, Hk, Nk, Dv) -> ((B, Nq, Hq, Dv), None).

    A mask, bool or additive, is the whole truth about visibility; without one `is_causal` (else `module.is_causal`) and
    `sliding_window` decide. Key heads are never repeated. There are no attention weights: `output_attentions` raises.
    """
    if kwargs.get("output_attentions"):
        raise ValueError(
            "saccade: output_attentions: got True, wanted False; the weights are never formed, use 'eager' to see them"
        )
    if kwargs.get("cache") is not None:
        raise ValueError(
            "saccade: cache: got a paged cache, wanted None; continuous batching is not supported, use 'sdpa'"
        )
    options: dict[str, Any] = {"scale": scaling, "softcap": softcap or 0.0, "sinks": s_aux, "dropout_p": dropout}
    if attention_mask is None:
        if is_causal is None:
            is_causal = getattr(module, "is_causal", True)
        options["causal"] = bool(is_causal)
        # flash-attention's reading of the number: the query itself and w - 1 keys to each open side
        if sliding_window is not None:
            options["window"] = (sliding_window - 1, sliding_window - 1)
        options["bias"] = position_bias
    elif position_bias is None:
        options["bias"] = attention_mask
    elif attention_mask.dtype == torch.bool:
        options["bias"] = torch.where(attention_mask, position_bias, float("-inf"))
    else:
        options["bias"] = attention_mask + position_bias

    lengths = kwargs.get("cu_seq_lens_q")
    if attention_mask is None and lengths is not None and query.shape[0] == 1:
        keys = kwargs.get("cu_seq_lens_k")
        packed = (x[0].transpose(0, 1) for x in (query, key, value))
        options |= {"cu_seqlens_q": lengths.int(), "cu_seqlens_k": (lengths if keys is None else keys).int()}
        return saccade.softmax_attention(*packed, **options)[None], None
    out = saccade.softmax_attention(query, key, value, **options)
    return out.transpose(1, 2).contiguous(), None
