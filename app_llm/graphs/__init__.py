"""Encoders and rerankers as ONNX graphs that ONNX Runtime or OpenVINO computes, in place of torch."""
