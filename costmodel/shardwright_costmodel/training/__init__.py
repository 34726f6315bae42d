"""Offline training of the cost models: Parquet dataset in, published ONNX bundle out."""
