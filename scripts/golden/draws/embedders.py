import torch
import transformers as t

import embeddings

from .draw import Draw, sizes


def embedding(d: Draw, family: str) -> embeddings.Fixture:
    """A model that embeds, with sentence-transformers' files."""
    heads = d.randint(1, 4)
    made = dict(
        bert=(t.BertModel, t.BertConfig, embeddings.word_pieces, bert(d, heads)),
        gemma3_embedding=(t.Gemma3TextModel, t.Gemma3TextConfig, embeddings.framed_pieces, gemma3_embedding(d)),
        qwen3_embedding=(t.Qwen3Model, t.Qwen3Config, embeddings.ended_bytes, sizes(d)),
    )
    model, config, tokenizer, settings = made[family]
    identity, tanh = torch.nn.Identity(), torch.nn.Tanh()
    dense = [(d.randint(5, 60), d.flag(), d.choice([identity, tanh])) for _ in range(d.choice([0, 0, 1, 2]))]
    return embeddings.Fixture(
        name=family,
        model=model,
        config=config,
        settings=settings,
        stored=d.choice(["float32", "float16", "bfloat16"]),
        tokenizer=tokenizer,
        pooling=d.choice(["mean", "cls", "lasttoken"]),
        dense=dense,
        normalize=d.flag(),
        prompts=d.choice([{}, {"query": "find: "}]),
        legacy=d.flag(),
        architecture="Qwen3ForCausalLM" if family == "qwen3_embedding" and d.flag() else None,
    )


def bert(d: Draw, heads: int) -> dict:
    return dict(
        hidden_size=heads * d.even(4, 20),
        num_attention_heads=heads,
        intermediate_size=d.randint(5, 90),
        num_hidden_layers=d.randint(1, 4),
        max_position_embeddings=d.choice([64, 200]),
        type_vocab_size=d.randint(1, 3),
        hidden_act=d.choice(["gelu", "gelu_new", "gelu_pytorch_tanh"]),
        layer_norm_eps=d.choice([1e-12, 1e-5, 0.02]),
    )


def gemma3_embedding(d: Draw) -> dict:
    own = sizes(d, 7) | dict(sliding_window=d.randint(2, 20), query_pre_attn_scalar=d.randint(4, 40))
    return own | dict(use_bidirectional_attention=True)


EMBEDDINGS = ["bert", "gemma3_embedding", "qwen3_embedding"]
