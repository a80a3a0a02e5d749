"""Pre-training and fine-tuning of the network on recordings of play."""
