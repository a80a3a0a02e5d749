"""Video diffusion models as encoders: what the UNet computes inside while it is about to imagine the frames that follow."""

from vpt_gym.encoders.video.encoder import VideoEncoder, load_video

__all__ = ["VideoEncoder", "load_video"]
