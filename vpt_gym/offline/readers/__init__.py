"""One file a kind of recording, and `find_recordings`, which tells from a path which kind lies there."""

from vpt_gym.offline.readers.finding import find_recordings

__all__ = ["find_recordings"]
