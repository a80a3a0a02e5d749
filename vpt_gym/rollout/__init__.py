"""Many environments at once: the processes that they run in, and the one line that puts an encoder in front of them."""
