"""The two detectors: backbones, feature pyramid, heads, training criterion, inference."""
