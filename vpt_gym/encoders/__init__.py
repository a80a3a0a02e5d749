"""What turns frames into latents: the protocol that every encoder keeps to, and the kinds of encoder that there are."""

from vpt_gym.encoders.base import EncoderBase, MemorylessEncoder, MemorylessStream, fingerprint_of
from vpt_gym.encoders.image import encoder_from_module
from vpt_gym.encoders.protocol import Encoder, Stream
from vpt_gym.encoders.registry import Lent, as_encoder, load_encoder, register_source, schemes

__all__ = [
    "Encoder",
    "EncoderBase",
    "Lent",
    "MemorylessEncoder",
    "MemorylessStream",
    "Stream",
    "as_encoder",
    "encoder_from_module",
    "fingerprint_of",
    "load_encoder",
    "register_source",
    "schemes",
]
