"""Random small models, one function a family: sizes, layer patterns and options that no fixture was made for.

Every width is drawn by itself, so that few are multiples of a tile or a group. A draw may give whatever transformers
computes and docs/models.md does not refuse.
"""

from . import gemma, glm, llama, muse, qwen
from .draw import Draw
from .embedders import EMBEDDINGS, embedding
from .muse import drafted

FAMILIES = dict(
    muse_glimmer=muse.muse_glimmer,
    muse_spark=muse.muse_spark,
    llama=llama.llama,
    llama4=llama.llama4,
    qwen2=qwen.qwen2,
    qwen3=qwen.qwen3,
    qwen3_moe=qwen.qwen3_moe,
    qwen3_5=qwen.qwen3_5,
    qwen3_5_moe=lambda d, text: qwen.qwen3_5(d, text, moe=True),
    glm4=glm.glm4,
    glm4_moe=glm.glm4_moe,
    glm4_moe_lite=glm.glm4_moe_lite,
    glm_moe_dsa=glm.glm_moe_dsa,
    gemma3=gemma.gemma3,
    gemma4=gemma.gemma4,
)
