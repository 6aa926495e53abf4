"""Networks: the Temporal Fusion Transformer and the patch model, in plain PyTorch.

This room knows tensors and the model contract; it knows no files, no daemon and no training data.
"""
