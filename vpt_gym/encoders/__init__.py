"""What turns frames into latents: the protocol that every encoder keeps to, and the kinds of encoder that there are."""
