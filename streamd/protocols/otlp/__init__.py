"""OTLP metrics: decodes export requests in protobuf and in JSON into points, and encodes the answers."""
