"""OTLP metrics: export requests in protobuf and in JSON to points, and the answers to them."""
