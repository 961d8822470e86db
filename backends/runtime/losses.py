"""The loss of a classifier, by what its labels are."""

import torch


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the loss of `logits` [B, C] by what `labels` are, as transformers does:
    with one class the squared distance, of whole numbers [B] the cross entropy, of
    floats [B, C] that of each class by itself."""
    logits, labels = logits.float(), labels.to(logits.device)
    if logits.shape[-1] == 1:
        return torch.nn.functional.mse_loss(logits.squeeze(), labels.squeeze().float())
    if labels.is_floating_point():
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    return torch.nn.functional.cross_entropy(logits, labels.flatten())
