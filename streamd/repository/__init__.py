"""The model repository: engine versions on disk, their manifests, and which one serves."""
