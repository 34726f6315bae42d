"""Generated protobuf and gRPC stubs of package shardwright.v1; see proto/README.md."""
