"""What is learned and how: model configuration, tokenizer, network, training and artifacts on disk."""
