"""The batched multi-LoRA layer: many adapters trained and served over one frozen base."""
