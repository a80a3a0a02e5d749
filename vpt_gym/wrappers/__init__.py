"""Adapters of the latent stream to Gymnasium's single and vector environments and to SB3's VecEnv; no mathematics."""
