"""Many environments at once: the processes and Ray actors that they run in, and the one line that makes them."""

from vpt_gym.rollout.actors import RayVecEnv
from vpt_gym.rollout.make import make_latent_vec_env
from vpt_gym.rollout.workers import WorkerVecEnv

__all__ = ["RayVecEnv", "WorkerVecEnv", "make_latent_vec_env"]
