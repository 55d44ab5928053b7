"""Features of an image classifier: one pass over a split, pictures as they are."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from loraland.strata.features import Features
from loraland.strata.images.network import as_input, features_kept, last_linear
from loraland.strata.images.pictures import ImageSplit
from loraland.strata.images.train import PASS


@torch.no_grad()
def extract(network: nn.Module, split: ImageSplit) -> Features:
    """What a trained network makes of a split: what its last linear layer is given, and its logits.

    In evaluation mode, without random changes to pictures. Raises DataRefused for features that are
    not finite, or a split of one superclass.
    """
    network.eval()
    head = last_linear(network).weight.detach()
    logits = []
    with features_kept(network) as kept:
        for start in range(0, len(split), PASS):
            places = np.arange(start, min(start + PASS, len(split)))
            logits.append(network(as_input(torch.from_numpy(split.pictures.take(places)))))
    found = torch.cat(logits).float()
    losses = functional.cross_entropy(found, torch.from_numpy(split.superclasses), reduction="none")
    return Features(
        split=split.split,
        ids=split.ids,
        values=torch.cat(kept).float().numpy(),
        logits=found.numpy(),
        losses=losses.numpy(),
        superclasses=split.superclasses,
        subclasses=split.subclasses,
        head=head.float().numpy(),
    )
