"""The Open Inference Protocol, version 2: clients of other model servers forecast their own windows here, unchanged.

Each module knows one part: messages, tensors that come in, answers, metadata, routes. The windows are forecast by the
service, as those of `/v1/predict` are.
"""
