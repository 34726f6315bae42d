"""Cost models of Shardwright: features, datasets, ONNX bundles, training."""

__version__ = "0.1.0"
