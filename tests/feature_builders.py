"""Builders of a feature cache to be started as processes, which import no more than they need."""

import time

import torch

from declip_pl.data import feature_cache
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.model.encoder import build_encoder


def build_one_shard(clip, root, photos, patience):
    """Encode the first shard's photos, and then wait to be killed."""
    feature_cache.SHARD = 3
    encoder = build_encoder(str(clip), "layer1", 64)
    forward, batches = encoder.forward, []

    def stuck(pixels):
        if batches:
            time.sleep(patience)
        batches.append(len(pixels))
        return forward(pixels)

    encoder.forward = stuck
    FeatureCache(encoder, root=root).fetch(photos, torch.device("cpu"))


def build(clip, root, photos, patience, queue, together):
    """Encode photos at the same time as others, and tell how many."""
    encoder, counted = build_encoder(str(clip), "layer1", 64), []
    forward = encoder.forward

    def slowly(pixels):
        time.sleep(1)  # while the other one comes along
        counted.append(len(pixels))
        return forward(pixels)

    encoder.forward = slowly
    together.wait(timeout=patience)
    FeatureCache(encoder, root=root).fetch(photos, torch.device("cpu"))
    queue.put(sum(counted))
