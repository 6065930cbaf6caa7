"""The tiny checkpoints: one entry a family or variant, sizes chosen so that no width is a multiple of a group or tile."""

from . import gemma, glm, llama, muse, qwen
from .fixture import Fixture

FIXTURES = muse.FIXTURES + llama.FIXTURES + qwen.FIXTURES + gemma.FIXTURES + glm.FIXTURES
